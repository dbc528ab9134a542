"""What the shortened main job has to have written; the bounds leave room for other machines' rounding."""

import json
import sys
from pathlib import Path

run = Path(sys.argv[1])
results = {result["attention"]: result for result in json.loads((run / "results.json").read_text())}
none, scaled_dot, moved = (results[name] for name in ("none", "scaled_dot", "find_then_move"))
page = (run / "report.html").read_text()
checks = {
    "without attention at most 0.45 of attributes": none["accuracy"]["attribute"] <= 0.45,
    "scaled dot products at least 0.95 of attributes": scaled_dot["accuracy"]["attribute"] >= 0.95,
    "one read below 0.60 of relations": scaled_dot["accuracy"]["relation"] < 0.60,
    "two hops at least 0.85 of relations": moved["accuracy"]["relation"] >= 0.85,
    "their largest weight on the right digit at least 0.8 of the time": moved["pointing"] >= 0.8,
    "every family learned by some variant": all(
        max(one["accuracy"][family] for one in results.values()) >= 0.85
        for family in none["accuracy"]
        if family != "overall"
    ),
    "every variant has a note, that of two hops what it is told": all(one["note"] for one in results.values())
    and "it is told" in moved["note"]
    and moved["note"] in page,
    "no pointing without attention": none["pointing"] is None,
    "weights beside the results": all((run / f"{name}-0" / "model.safetensors").exists() for name in results),
    "one page, nothing loaded from elsewhere": "scaled_dot" in page and 'src="http' not in page,
}
for check, holds in checks.items():
    print("ok    " if holds else "FAILED", check)
print(f"{sum(checks.values())} passed, {len(checks) - sum(checks.values())} failed")
sys.exit(not all(checks.values()))

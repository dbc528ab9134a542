"""The documentation: pages from the same facts as the catalogue, pictures of every map, built by mkdocs into `site/`.

Run it as `make docs`. Nothing that is generated is kept besides `site/`.
"""

from pathlib import Path
from shutil import copy
from tempfile import TemporaryDirectory

import torch

import pages
import pictures
from regard.attention import catalogue, mechanisms

HERE = Path(__file__).parent
ROOT = HERE.parent


def write(folder: Path) -> None:
    """Write every page and picture into the folder."""
    for name in ("mechanisms", "pictures"):
        (folder / name).mkdir()
    texts = {
        name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
    }
    own = {path.stem: path.read_text(encoding="utf-8") for path in HERE.glob("*.md")}
    found = {
        "index": pages.index(texts["README.md"]),
        "contributing": pages.contributing(texts["CONTRIBUTING.md"]),
        "changelog": texts["CHANGELOG.md"],
        "placing": own["placing"],
        "questions": pages.questions(own["questions"]),
        "sort_of_clevr": own["sort_of_clevr"],
        "attention_in_classification": own["attention_in_classification"],
        "fusion": pages.fusion(own["fusion"]),
        "mechanisms/index": pages.table(),
    }
    for entry in catalogue.catalog():
        drawn = pictures.draw(mechanisms[entry.name])
        for picture in drawn:
            picture.image.save(folder / "pictures" / f"{entry.name}-{picture.label}.webp", quality=85)
        found[f"mechanisms/{entry.name}"] = pages.page(mechanisms[entry.name], entry, drawn)
    for name, text in found.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    for name in ("report.png", "table.js", "style.css"):
        copy(HERE / name, folder)


def main() -> None:
    """Write the pages into a temporary folder and build the site from them; a warning of mkdocs is an error."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    torch.set_num_threads(1)  # the maps are small
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        settings = load_config(
            str(HERE / "mkdocs.yml"), docs_dir=name, site_dir=str(ROOT / "site"), nav=pages.navigation(), strict=True
        )
        build(settings)
    print(f"built: {ROOT / 'site' / 'index.html'}")


if __name__ == "__main__":
    main()

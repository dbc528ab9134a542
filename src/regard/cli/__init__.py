"""The command line. One command, one module, one function of the same name.

A command's module imports nothing heavy at its top, only inside its function: `regard --help` reads every command's
signature and must answer at once.
"""

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from regard.commands import as_started
from regard.errors import UserError, in_one_line
from regard.extras import naming_extras


class _Commands(TyperGroup):
    """Commands whose `UserError`s, and packages that are not installed, end with one red line and exit code 2."""

    def invoke(self, ctx: Any) -> object:  # Any: Typer's context is click's or its own, by version
        try:
            with naming_extras():
                return super().invoke(ctx)
        except UserError as error:
            Console(stderr=True).print(Text(f"Error: {in_one_line(error)}", style="red"), soft_wrap=True)
            raise typer.Exit(2) from None


def build() -> typer.Typer:
    """The application with all its commands."""
    from regard.cli import train_fusion
    from regard.cli.ask import ask
    from regard.cli.catalog import catalog
    from regard.cli.compare import compare
    from regard.cli.cost import cost
    from regard.cli.evaluate import evaluate
    from regard.cli.export import export
    from regard.cli.places import places
    from regard.cli.train import vqa

    train = typer.Typer(
        no_args_is_help=True, help="Train a model on your own data, and keep it for the other commands."
    )
    for command in (vqa, train_fusion.fusion):
        train.command(help=_flowing(command))(command)

    application = typer.Typer(
        cls=_Commands,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    application.callback()(_root)
    application.add_typer(train, name="train")
    for command in (compare, evaluate, ask, export, catalog, places, cost):
        application.command(help=_flowing(command))(command)
    return application


def _flowing(command: Callable[..., None]) -> str:
    """A command's docstring with whole paragraphs in a line, which the terminal breaks, and commands to be pasted."""
    paragraphs = as_started(inspect.cleandoc(command.__doc__ or "")).split("\n\n")
    return "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)


def main() -> None:
    """What the shell calls."""
    build()()


def _print_version(wanted: bool) -> bool:
    if wanted:
        from regard import __version__

        typer.echo(__version__)
        raise typer.Exit
    return wanted


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Attention mechanisms for vision and multimodal models: compare them fairly, and see what they look at."""

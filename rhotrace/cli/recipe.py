"""The commands ``recipe check``, ``schema``, ``list`` and ``copy``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rhotrace.cli.options import AsJson, Overrides, RecipeFile, TrustCode
from rhotrace.cli.output import answer, say

recipe_app = typer.Typer(
    no_args_is_help=True,
    help="Check recipes, print their schema, list and copy those that come with RhoTrace.",
    epilog="Example: rhotrace recipe copy deep8 && rhotrace train recipes/deep8.yaml",
)


@recipe_app.command("check", epilog="Example: rhotrace recipe check recipes/deep8.yaml --set steps=100")
def recipe_check(
    recipe: RecipeFile, overrides: Overrides = None, trust_code: TrustCode = False, as_json: AsJson = False
) -> None:
    """Validate a recipe and print it with every default spelled out."""
    from rhotrace.config import recipe as recipes
    from rhotrace.display.blocks import Data

    content = recipes.load(recipe, overrides, trust_code=trust_code)
    if as_json:
        answer([Data(content.model_dump())], as_json=True)
        return
    say(f"{recipe}: valid")
    typer.echo(content.to_yaml(), nl=False)


@recipe_app.command("schema", epilog="Example: rhotrace recipe schema > recipe.schema.json")
def recipe_schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    import json

    from rhotrace.config.recipe import Recipe

    typer.echo(json.dumps(Recipe.model_json_schema(), indent=2))


@recipe_app.command("list", epilog="Example: rhotrace recipe list")
def recipe_list(as_json: AsJson = False) -> None:
    """List the recipes that come with RhoTrace, and what each shows."""
    from rhotrace.config import shipped_recipes
    from rhotrace.display.as_json import plain
    from rhotrace.display.blocks import Data, table

    found = shipped_recipes.listing()
    grid = table("<recipe | <shows", [(each.name, each.claim) for each in found])
    answer([Data([plain(each) for each in found]), grid], as_json=as_json)


@recipe_app.command("copy", epilog="Example: rhotrace recipe copy sweeps/phase-diagram -o recipes")
def recipe_copy(
    names: Annotated[list[str], typer.Argument(help="Names as in `rhotrace recipe list`.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to copy into.")] = Path("recipes"),
    as_json: AsJson = False,
) -> None:
    """Copy shipped recipes into a folder to train or change them; a sweep brings along the recipe that it varies."""
    from rhotrace.config import shipped_recipes
    from rhotrace.display.blocks import Data, Paragraph

    copied = {name: [str(path) for path in paths] for name, paths in shipped_recipes.copy(names, output).items()}
    words = [Paragraph(f"{name}: {path}") for name, paths in copied.items() for path in paths or ["exists already"]]
    answer([Data(copied), *words], as_json=as_json)

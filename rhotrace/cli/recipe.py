"""The commands ``recipe check``, ``schema``, ``list`` and ``copy``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rhotrace.cli.options import AsJson, Overrides, RecipeFile

recipe_app = typer.Typer(
    no_args_is_help=True,
    help="Check recipes, print their schema, and list and copy those that come with RhoTrace.",
    epilog="Example: rhotrace recipe copy deep8 && rhotrace train recipes/deep8.yaml",
)


@recipe_app.command("check", epilog="Example: rhotrace recipe check recipes/deep8.yaml --set steps=100")
def recipe_check(recipe: RecipeFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Validate a recipe and print it with every default spelled out."""
    from rhotrace.config import recipe as recipes
    from rhotrace.display import formatting

    content = recipes.load(recipe, overrides)
    if as_json:
        typer.echo(formatting.to_json(content.model_dump()))
        return
    typer.echo(f"{recipe}: valid", err=True)
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
    from rhotrace.display import formatting

    found = shipped_recipes.listing()
    if as_json:
        typer.echo(formatting.to_json([formatting.plain(each) for each in found]))
        return
    console, grid = formatting.output(), formatting.table("<recipe | <shows")
    for each in found:
        formatting.row(grid, each.name, each.claim)
    console.print(grid)


@recipe_app.command("copy", epilog="Example: rhotrace recipe copy sweeps/phase-diagram -o recipes")
def recipe_copy(
    names: Annotated[list[str], typer.Argument(help="As `rhotrace recipe list` names them.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to copy into.")] = Path("recipes"),
    as_json: AsJson = False,
) -> None:
    """Copy shipped recipes into a folder, to be trained or changed; with a sweep comes the recipe that it varies."""
    from rhotrace.config import shipped_recipes
    from rhotrace.display import formatting

    if as_json:
        typer.echo(
            formatting.to_json({name: [str(path) for path in shipped_recipes.copy(name, output)] for name in names})
        )
        return
    for name in names:
        for told in [str(path) for path in shipped_recipes.copy(name, output)] or ["there already"]:
            typer.echo(f"{name}: {told}")

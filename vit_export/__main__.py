"""`python -m vit_export`: the command line."""

from vit_export.cli.main import main

main(prog_name="vit-export")

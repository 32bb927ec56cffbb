"""`python -m vit_export`: the command line."""

from vit_export.cli.main import main

try:
    main(prog_name="vit-export")
finally:
    # Run with -m, Python ends by SIGINT and not with the exit code once an interrupt has passed an `exec` of text, as
    # many imports have them; the next one makes it forget that.
    exec("")

"""The command line, one file for each command.

Exit codes: 0 all is well, 1 something that was looked at is wrong, 2 the command was used wrongly.
"""

from gan_blocks.cli._app import app
from gan_blocks.cli.check import check
from gan_blocks.cli.doctor import doctor
from gan_blocks.cli.list import list_blocks
from gan_blocks.cli.new_plugin import new_plugin
from gan_blocks.cli.schema import schema
from gan_blocks.cli.show import show
from gan_blocks.cli.validate import validate

__all__ = ["app"]

# In the order of a user's way.
app.command("list")(list_blocks)
app.command("show")(show)
app.command("schema")(schema)
app.command("validate")(validate)
app.command("new-plugin")(new_plugin)
app.command("check")(check)
app.command("doctor")(doctor)

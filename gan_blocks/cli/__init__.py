"""The command line, one file for each command.

Exit codes: 0 all is well, 1 something that was looked at is wrong, 2 the command was used wrongly.
"""

from gan_blocks.cli._app import app, keeps_stdout
from gan_blocks.cli.check import check
from gan_blocks.cli.doctor import doctor
from gan_blocks.cli.list import list_blocks
from gan_blocks.cli.new_plugin import new_plugin
from gan_blocks.cli.schema import schema
from gan_blocks.cli.show import show
from gan_blocks.cli.validate import validate

__all__ = ["app"]

# In the order of a user's way.
app.command("list")(keeps_stdout(list_blocks))
app.command("show")(keeps_stdout(show))
app.command("schema")(keeps_stdout(schema))
app.command("validate")(keeps_stdout(validate))
app.command("new-plugin")(keeps_stdout(new_plugin))
app.command("check")(keeps_stdout(check))
app.command("doctor")(keeps_stdout(doctor))

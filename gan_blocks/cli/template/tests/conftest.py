"""Lets the tests run before the package is installed, too."""

import gan_blocks_template

from gan_blocks import registry

if "template" not in [plugin.name for plugin in registry.plugins()]:
    registry.register(gan_blocks_template, name="template")

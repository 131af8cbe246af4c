"""
TOML files, read so that every error can name the file, the line and the key.

- `keys`: where something is in a file: ``modules.take.arguments``
- `positions`: on which line
- `problems`: errors with their places, as many as can be found at once
- `conversion`: from what TOML has to the types of Python
- `document`: a file
- `pipelines`: where a pipeline is in it
"""

from steadyflow.toml.conversion import converted as converted
from steadyflow.toml.document import TomlDocument as TomlDocument
from steadyflow.toml.keys import Key as Key
from steadyflow.toml.keys import parse_key as parse_key
from steadyflow.toml.keys import show_key as show_key
from steadyflow.toml.problems import Problems as Problems

__all__ = ["Key", "Problems", "TomlDocument", "converted", "parse_key", "show_key"]

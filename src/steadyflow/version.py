"""The version, for those parts that may not import the package itself."""

__version__ = "0.1.0"  # as in pyproject.toml

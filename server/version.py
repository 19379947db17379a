"""The version of this installation."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("nexttoken")
except PackageNotFoundError:  # run from a checkout that was never installed
    VERSION = "0+unknown"

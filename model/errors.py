"""Why a model can't be served: each message is one clear line for the person who starts the server."""


class ModelError(Exception):
    """The model can't be served as it is. The command line prints the message and exits with code 2."""


class UnsupportedModel(ModelError):
    """The checkpoint asks for something this project doesn't implement. Names the file and the field."""


class BadConfig(ModelError):
    """A configuration file is missing, isn't JSON, or holds an impossible value. Names the file and the field."""


class WeightMismatch(ModelError):
    """The weight files don't hold exactly the tensors of the config. Names the file and the tensor."""


class NotEnoughMemory(ModelError):
    """Weights or KV cache don't fit. Names what was asked for and what is there."""


class ModelNotFound(ModelError):
    """There is no such directory, and no such model on the hub or in its cache."""

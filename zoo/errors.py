"""What can go wrong, by name: errors of files, records and data are ZooErrors; wrong arguments are ValueError or TypeError."""


class ZooError(Exception):
    """Base of all errors of files, records and data."""


class CorruptArtifact(ZooError):
    """The bytes are not a model file that this version can turn into the network it names."""


class NotAnArtifact(CorruptArtifact):
    """The file is something else: a web page, a Git-LFS pointer, another format."""


class TruncatedArtifact(CorruptArtifact):
    """The file ends before its own lengths say so."""


class UnsupportedVersion(CorruptArtifact):
    """The file was written in a format version that this version does not read."""


class UnknownName(CorruptArtifact):
    """The file names a network, partitioning, decoder or model that this version does not know."""


class LayoutMismatch(CorruptArtifact):
    """Shapes or counts in the file do not belong to the network it names."""


class UnknownModel(ZooError, LookupError):
    """No entry of the zoo has this id."""


class ArtifactUnavailable(ZooError):
    """The record of an entry is here, but its model file is not, and no source gave it."""


class DataUnavailable(ZooError):
    """A data set was found at none of its sources."""


class WrongData(ZooError):
    """A data set was found, but its decoded pixels and labels are not the expected ones."""


class VerificationFailed(ZooError):
    """A number derived from an artifact differs from the one in its record."""


def reason(error: Exception) -> str:
    """The first line of what an error of another library says, or its kind where it says nothing."""
    return str(error).strip().split("\n")[0] or type(error).__name__

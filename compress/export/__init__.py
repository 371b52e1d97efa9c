"""Ship: a trained model as a directory of integers and a program for JAX alone."""

from compress.export.artifact import Artifact as Artifact
from compress.export.artifact import load as load
from compress.export.build import export as export
from compress.export.manifest import ArtifactError as ArtifactError
from compress.export.manifest import read_manifest as read_manifest

"""Ship: a trained model as a directory of integers and a program for JAX alone."""

from compress.export.artifact import Artifact as Artifact
from compress.export.artifact import load as load
from compress.export.build import export as export
from compress.export.inspection import verify_artifact as verify_artifact
from compress.export.manifest import ArtifactError as ArtifactError
from compress.export.manifest import read_manifest as read_manifest
from compress.export.onnx import export_onnx as export_onnx
from compress.export.shared import Shared as Shared
from compress.export.upgrade import read_packed as read_packed
from compress.export.upgrade import read_upgradable as read_upgradable
from compress.export.upgrade import upgrade as upgrade

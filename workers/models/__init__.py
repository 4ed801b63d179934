"""Models that score tracks and events: packages on disk, and the engines that run them. docs/models.md explains the format."""

from hltfarm.workers.models.contents import CLAMP, Content, Cuts, Exported, Forest, MlpWeights
from hltfarm.workers.models.manifest import Cut, Manifest
from hltfarm.workers.models.package import Model, load, save

__all__ = ["CLAMP", "Content", "Cut", "Cuts", "Exported", "Forest", "Manifest", "MlpWeights", "Model", "load", "save"]

"""Names that programs written for Ray import from its extension module. Re-exports only."""

from ray._core.config.engine import Config, Language
from ray._core.generators import DynamicObjectRefGenerator, ObjectRefGenerator
from ray._native import ObjectRef

StreamingObjectRefGenerator = ObjectRefGenerator

__all__ = ["Config", "DynamicObjectRefGenerator", "Language", "ObjectRef", "ObjectRefGenerator", "StreamingObjectRefGenerator"]

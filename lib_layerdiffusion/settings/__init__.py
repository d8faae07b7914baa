"""What a user can set: one table of fields, from which parsing, validation, infotext, schema and panel derive.

A request becomes one `LayerSettings`, checked before anything is loaded or sampled.
"""

from lib_layerdiffusion.settings.fields import FIELDS, LatentScale, SettingField
from lib_layerdiffusion.settings.infotext import Restored, from_infotext, to_infotext
from lib_layerdiffusion.settings.parsing import LayerSettings, json_schema

__all__ = [
    "FIELDS",
    "LatentScale",
    "LayerSettings",
    "Restored",
    "SettingField",
    "from_infotext",
    "json_schema",
    "to_infotext",
]

"""Common base of the value objects that cross stage borders."""

from __future__ import annotations

import json

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """An immutable value object with a JSON form; unknown fields are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=True, ser_json_inf_nan="strings"
    )

    def to_json(self) -> str:
        """JSON text with sorted keys and a final newline; equal objects give equal bytes.

        Infinity and NaN become strings, for JSON (RFC 8259) has no such numbers.
        """
        # Only model_dump_json writes those strings; model_dump(mode="json") leaves them floats.
        return json.dumps(json.loads(self.model_dump_json()), indent=1, sort_keys=True) + "\n"

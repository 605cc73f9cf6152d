"""Fields of the forms that requests send, with their descriptions."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from siamese_verify.serving.problems import Problem

FORMATS = "JPEG, PNG, WebP, AVIF, HEIC, GIF or BMP"


class FormFields(BaseModel):
    """Base class of the fields of a form; empty fields count as missing."""

    model_config = ConfigDict(allow_inf_nan=False)

    @classmethod
    def parse(cls, texts: dict[str, str]) -> Any:
        """Fields from their text.

        Raises:
            Problem: 422 if one is invalid.
        """
        try:
            return cls.model_validate({name: text.strip() for name, text in texts.items() if text.strip()})
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            problem = f"{first['msg'][0].lower()}{first['msg'][1:]}"
            raise Problem(422, "invalid_field", f"The field {first['loc'][0]} is invalid: {problem}.") from None

    @classmethod
    def request_body(cls, photos: dict[str, int]) -> dict[str, Any]:
        """Description of forms with these fields and photos, which OpenAPI cannot derive from the route.

        Args:
            photos: names of the photos, all required, and how many of each there may be.
        """
        schema = cls.model_json_schema()
        fields: dict[str, Any] = {}
        for name, described in schema.get("properties", {}).items():
            [kind] = [one for one in described.get("anyOf", [described]) if one.get("type") != "null"]
            fields[name] = {**described, **kind}
            for member in ("anyOf", "default", "title"):
                fields[name].pop(member, None)

        def content(photo: dict[str, Any]) -> dict[str, Any]:
            parts = {
                name: photo if most == 1 else {"type": "array", "items": photo, "minItems": 1, "maxItems": most}
                for name, most in photos.items()
            }
            required = [*photos, *schema.get("required", [])]
            return {"schema": {"type": "object", "properties": {**parts, **fields}, "required": required}}

        binary = {"type": "string", "format": "binary", "description": FORMATS}
        base64 = {"type": "string", "contentEncoding": "base64", "description": f"{FORMATS}, in base64; or a data URI"}
        described = {"multipart/form-data": content(binary), "application/json": content(base64)}
        return {"requestBody": {"required": True, "content": described}}


class EmbedFields(FormFields):
    """Fields of `/v1/embed`, and what others share with it."""

    on_multiple_faces: Literal["error", "largest", "central"] | None = Field(
        None, description="Which face of a photo with multiple faces to use: error refuses the photo"
    )


class VerifyBatchFields(EmbedFields):
    """Fields of `/v1/verify/batch`."""

    far: float | None = Field(None, description="False accept rate to work at", examples=[0.001])
    threshold: float | None = Field(None, description="Accept at this score instead", examples=[0.5])
    prior: float | None = Field(
        None, description="Share of genuine pairs among those you ask about: adds a probability", examples=[0.5]
    )
    decide: bool = Field(False, description="Decide even where it is inconclusive")


class FacesFields(FormFields):
    """Fields of `/v1/faces`."""

    crops: bool = Field(False, description="Return the aligned faces")


class VerifyFields(VerifyBatchFields, FacesFields):
    """Fields of `/v1/verify`."""

    on_multiple_faces: Literal["error", "largest", "central", "any"] | None = Field(  # type: ignore[assignment]
        None, description="Which face of a photo with multiple faces to use: error refuses the photo, any compares all"
    )
    explain: bool = Field(False, description="Return pictures of where the similarity comes from")


class EnrollFields(EmbedFields):
    """Fields of `/v1/enroll`."""

    name: str = Field(description="Name of the person", examples=["Ada Lovelace"])


class IdentifyFields(EmbedFields):
    """Fields of `/v1/identify`."""

    far: float | None = Field(
        None, description="Share of searches for people who are not enrolled that may find one", examples=[0.01]
    )
    scores: bool = Field(False, description="Return scores below the threshold too; needs the scope scores")

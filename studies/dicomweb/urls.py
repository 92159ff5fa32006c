"""The routes of a DICOMweb root; `urls_for` mounts them for any scope."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, include, path, register_converter

from studies.dicomweb import qido, rendered, stow, wado
from studies.dicomweb.access import endpoint
from studies.dicomweb.scope import Resolver, general_scope, project_scope


class UidConverter:
    regex = "[0-9.]{1,64}"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


class FramesConverter(UidConverter):
    regex = "[0-9,%C]{1,4000}"


register_converter(UidConverter, "dicom_uid")
register_converter(FramesConverter, "dicom_frames")


def urls_for(resolver: Resolver) -> list[URLPattern]:
    """Every DICOMweb resource below one root. `resolver(request, **kwargs of the mount) -> Scope`, or `Http404`."""
    study = "studies/<dicom_uid:study>"
    series = f"{study}/series/<dicom_uid:series>"
    instance = f"{series}/instances/<dicom_uid:instance>"
    frames = f"{instance}/frames/<dicom_frames:frames>"
    get = {
        "studies": qido.search_studies,
        "series": qido.search_series,
        "instances": qido.search_instances,
        f"{study}/series": qido.search_series,
        f"{study}/instances": qido.search_instances,
        f"{series}/instances": qido.search_instances,
        study: wado.retrieve,
        series: wado.retrieve,
        instance: wado.retrieve,
        f"{study}/metadata": wado.study_metadata,
        f"{series}/metadata": wado.series_metadata,
        f"{instance}/metadata": wado.instance_metadata,
        frames: wado.frames,
        f"{instance}/bulkdata/<path:path>": wado.bulk_data,
        "wado": rendered.wado_uri,
    }
    for level in (study, series, instance, frames):
        get[f"{level}/rendered"] = rendered.rendered
        get[f"{level}/thumbnail"] = rendered.thumbnail
    routes = []
    for route, handler in get.items():
        methods = {"GET": handler}
        if route in ("studies", study):
            methods["POST"] = stow.store_instances
        routes.append(path(route, endpoint(resolver, methods)))  # type: ignore[arg-type]
    return routes


urlpatterns: list[URLPattern | URLResolver] = [
    path("projects/<slug:slug>/", include(urls_for(project_scope))),
    *urls_for(general_scope),
]

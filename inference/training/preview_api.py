"""Previews of preprocessing over REST."""

from __future__ import annotations

from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from inference.jobs.api import JobSerializer
from inference.rest import need, refusals, user_of
from inference.training import previews
from portal.accounts.permissions import Action
from studies.models import Series


class StartPreviewSerializer(serializers.Serializer):
    series = serializers.IntegerField()
    steps = serializers.JSONField(help_text="A list of steps, as `preprocessing` of a training configuration")


class PreviewViewSet(viewsets.ViewSet):
    """Follow the job; its result has shape, spacing, numbers, values, histogram and time after each step."""

    @extend_schema(request=StartPreviewSerializer, responses={201: JobSerializer})
    def create(self, request: Request) -> Response:
        asked = StartPreviewSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        visible = Series.objects.visible_to(user_of(request)).select_related("study__project")
        series = visible.filter(pk=asked.validated_data["series"]).first()
        if series is None:
            raise Http404
        need(request, Action.RUN, series.study.project)
        with refusals():
            job = previews.start(series, asked.validated_data["steps"], by=user_of(request))
        return Response(JobSerializer(job).data, status=201)

"""The forms of nodes, searches and sending."""

from __future__ import annotations

from typing import Any

from django import forms

from portal.accounts.models import Project
from portal.pacs.transfers import What
from studies.dimse.models import RemoteNode
from studies.dimse.nodes import FIELDS
from studies.dimse.remote import Wanted


class NodeForm(forms.Form):
    """A node as an administrator writes it down; `studies.dimse.nodes` checks it."""

    name = forms.CharField(max_length=60, help_text="What people choose by, for example “Main PACS”.")
    project = forms.ModelChoiceField(
        Project.objects.none(), empty_label=None, help_text="What it sends goes here, and it finds only what lies here."
    )
    kind = forms.ChoiceField(choices=RemoteNode.Kind.choices, label="Speaks")
    active = forms.BooleanField(required=False, initial=True, label="In use")
    ae_title = forms.CharField(max_length=16, required=False, label="Its AE title")
    host = forms.CharField(max_length=253, required=False, help_text="Name or address at which we reach it.")
    port = forms.IntegerField(min_value=1, max_value=65535, required=False, help_text="104 or 11112 as a rule.")
    tls = forms.BooleanField(required=False, label="TLS", help_text="Both ways, and no call without.")
    called_ae_title = forms.CharField(
        max_length=16, required=False, label="Our AE title", help_text="By which it calls us; empty: the portal's."
    )
    retrieve_by = forms.ChoiceField(
        choices=RemoteNode.Retrieve.choices,
        required=False,
        label="Retrieve by",
        help_text="C-MOVE needs our listener and our AE title at the remote.",
    )
    addresses = forms.CharField(
        required=False,
        label="May call from",
        help_text="Addresses or networks, separated by spaces or commas. Empty: it may not call.",
    )
    services = forms.MultipleChoiceField(
        choices=RemoteNode.Service.choices, required=False, label="It may", widget=forms.CheckboxSelectMultiple
    )
    include_results = forms.BooleanField(
        required=False, label="Results, too", help_text="It may find and fetch results and annotations besides images."
    )
    url = forms.URLField(max_length=300, required=False, label="DICOMweb root", assume_scheme="https")
    token = forms.CharField(
        max_length=2000,
        required=False,
        help_text="Sent as bearer token. Empty: the one that is kept stays.",
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
    )

    def __init__(self, *arguments: Any, node: RemoteNode | None = None, **keywords: Any) -> None:
        if node is not None:
            initial = {name: getattr(node, name) for name in FIELDS if name not in ("token", "addresses")}
            keywords.setdefault("initial", {**initial, "addresses": " ".join(node.addresses)})
        super().__init__(*arguments, **keywords)
        if node is not None:
            del self.fields["project"]  # what came from a node stays where it is, so the node does, too
        else:
            self.fields["project"].queryset = Project.objects.order_by("name")  # type: ignore[attr-defined]

    def clean_addresses(self) -> list[str]:
        return self.cleaned_data["addresses"].replace(",", " ").split()

    def values(self) -> dict[str, Any]:
        """As `nodes.create` and `nodes.change` take them."""
        data = dict(self.cleaned_data)
        data["retrieve_by"] = data["retrieve_by"] or RemoteNode.Retrieve.GET
        return {name: data[name] for name in FIELDS}


class QueryForm(forms.Form):
    """Travels in the body of a POST: it names patients."""

    patient_id = forms.CharField(max_length=64, required=False, label="Patient ID")
    patient_name = forms.CharField(
        max_length=64,
        required=False,
        label="Name",
        help_text="FAMILY^GIVEN; * stands for anything.",
    )
    accession_number = forms.CharField(max_length=16, required=False, label="Accession number")
    modality = forms.CharField(max_length=16, required=False, widget=forms.TextInput(attrs={"list": "modalities"}))
    first_day = forms.DateField(required=False, label="From", widget=forms.DateInput(attrs={"type": "date"}))
    last_day = forms.DateField(required=False, label="To", widget=forms.DateInput(attrs={"type": "date"}))

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        for field in self.fields.values():
            field.widget.attrs["autocomplete"] = "off"

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if not self.errors and not any(data.values()):
            raise forms.ValidationError("Fill in at least one field; a search for everything burdens the remote.")
        first, last = data.get("first_day"), data.get("last_day")
        if first and last and first > last:
            self.add_error("last_day", "This day lies before the first one.")
        return data

    def wanted(self) -> Wanted:
        data = dict(self.cleaned_data)
        name = data["patient_name"]
        if name and not any(char in name for char in "*?"):
            data["patient_name"] = f"{name}*"
        return Wanted(**{**data, "modality": data["modality"].upper()})


class SendForm(forms.Form):
    node = forms.ModelChoiceField(RemoteNode.objects.none(), empty_label=None, label="To")
    what = forms.ChoiceField(choices=What.choices, initial=What.ALL, label="What")

    def __init__(self, *arguments: Any, nodes: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.fields["node"].queryset = nodes  # type: ignore[attr-defined]

from __future__ import annotations

from django import forms
from django.contrib.auth.password_validation import validate_password

from portal.accounts.models import ApiToken, Project, Role, User

EXPIRY = [("30", "in 30 days"), ("90", "in 90 days"), ("365", "in a year"), ("0", "never")]


class ProfileForm(forms.ModelForm):
    class Meta:
        model = User
        fields = ["first_name", "last_name", "email", "theme", "single_key_shortcuts"]
        labels = {"single_key_shortcuts": "Single-key shortcuts"}
        help_texts = {"single_key_shortcuts": "J, K, X and other single letters; Ctrl K always works."}


class TokenForm(forms.Form):
    name = forms.CharField(max_length=80, help_text="What uses it, for example “notebook”.")
    expires = forms.ChoiceField(choices=EXPIRY, initial="90", label="Expires")
    scope = forms.ChoiceField(choices=ApiToken.Scope.choices, initial=ApiToken.Scope.READ, label="May do")
    project = forms.ModelChoiceField(
        Project.objects.none(),
        required=False,
        to_field_name="slug",
        empty_label="All your projects",
        label="Only in",
    )

    def __init__(self, user: User, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["project"].queryset = Project.objects.visible_to(user)  # type: ignore[attr-defined]


class ProjectForm(forms.ModelForm):
    class Meta:
        model = Project
        fields = ["name", "slug", "description"]
        help_texts = {"slug": "Short name for commands and addresses: letters, digits, hyphens."}
        widgets = {"description": forms.Textarea(attrs={"rows": 2})}

    def clean_slug(self) -> str:
        if self.cleaned_data["slug"] == "select":  # the address of the project switcher
            raise forms.ValidationError("This short name is taken by the portal. Choose another one.")
        return self.cleaned_data["slug"]


class MemberForm(forms.Form):
    username = forms.CharField(max_length=150, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    role = forms.ChoiceField(choices=Role.choices, initial=Role.READER)

    def clean_username(self) -> User:
        user = User.objects.filter(username=self.cleaned_data["username"], is_active=True).first()
        if user is None:
            raise forms.ValidationError("No account has this user name. An administrator makes accounts under Users.")
        return user


class UserForm(forms.ModelForm):
    password = forms.CharField(
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text="10 characters or more; the user can change it in the profile.",
    )

    class Meta:
        model = User
        fields = ["username", "first_name", "last_name", "email"]
        help_texts = {"username": ""}

    def clean(self):
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("password"):
            try:
                validate_password(cleaned["password"], User(username=cleaned.get("username", "")))
            except forms.ValidationError as error:
                self.add_error("password", error)
        return cleaned

"""Static files under names that carry a hash of their content, once they are collected."""

from whitenoise.storage import CompressedManifestStaticFilesStorage


class HashedStaticFiles(CompressedManifestStaticFilesStorage):
    """Falls back to the plain name where nothing was collected yet, as under `runserver` in a fresh checkout."""

    def stored_name(self, name: str) -> str:
        known = self.hash_key(self.clean_name(name)) in self.hashed_files
        return super().stored_name(name) if known else name

"""What one import may cost. Sizes in bytes."""

MAX_FILE = 16 << 30  # one DICOM file
MAX_ZIP_ENTRIES = 500_000
MAX_ZIP_TOTAL = 256 << 30  # all entries of one archive, unpacked
MAX_ZIP_RATIO = 200  # unpacked over packed size of one entry …
ZIP_RATIO_FROM = 16 << 20  # … once it has given this much
MAX_NAME = 255

GROUP_FILES = 64  # files that share a transaction and a sync
GROUP_BYTES = 128 << 20
COPY = 1 << 20

"""What one import may cost. Sizes in bytes."""

MAX_FILE = 16 << 30  # one DICOM file
MAX_ZIP_ENTRIES = 500_000
MAX_ZIP_TOTAL = 256 << 30  # all entries of one archive, unpacked
MAX_ZIP_RATIO = 200  # unpacked over packed size of one entry …
ZIP_RATIO_FROM = 16 << 20  # … once it has given this much
MAX_NAME = 255
MAX_PARTS = 50_000  # of one STOW request; each is remembered for the answer

GROUP_FILES = 64  # files that share a transaction and a sync
GROUP_BYTES = 128 << 20
GROUP_TEXT = 8 << 20  # characters of their headers, which are in memory
COPY = 1 << 20

"""What the portal adds to inference: `python -m benchmarks.inference_overhead [--studies 6] [--jobs 20]`.

A model runs on studies one at a time, in turns: as a job of a warm worker, and in a bare loop of a process of its own.
Both read the same files, prepare them in the same way, slide the same window of the same MONAI network with MONAI's
`sliding_window_inference`, bring the probabilities back to the original grid, and write a DICOM SEG. The first study of
each is not counted. The worker also keeps the job's row, progress and log, and puts the SEG into the archive.

CPU is that of the process with its children, for the worker with and without PostgreSQL's; wall is from the claim to
the end of the job, and for the loop that of the study. Then 20 jobs that do nothing tell the time from before
`submit()` to the first line of the body. Everything runs in a temporary folder with its own PostgreSQL and Valkey, as
`manage.py up` starts them. Network, window, overlap and spacing are those of MONAI's spleen bundle, with random
weights; images are synthetic phantoms of the size of an abdomen, 96 × 256 × 256 voxels of 2.25 × 1.5 × 1.5 mm.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FINER = 4
SPACING = (2.25, 1.5, 1.5)  # mm, z y x
WINDOW = [96, 96, 96]
CHANNELS, STRIDES, CLASSES = [16, 32, 64, 128, 256], [2, 2, 2, 2], 2
PREPROCESSING = [
    {"name": "orient", "to": "LPS"},
    {"name": "resample", "spacing": [2.0, 1.5, 1.5]},
    {"name": "window", "lower": -200.0, "upper": 300.0},
    {"name": "normalise", "method": "range", "region": "all"},
]


def bare(folder: Path) -> None:
    """The loop: a line with a folder of images in, a line with CPU and wall seconds out."""
    import numpy as np
    import pydicom
    import torch
    from monai.inferers import sliding_window_inference

    from inference.imaging import grids, preprocessing
    from inference.registry import bundle
    from studies.dicom import segmentation
    from studies.dicom.volume import from_datasets

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    opened = bundle.read(folder)
    network = opened.network().eval().to(memory_format=torch.channels_last_3d)
    steps = opened.manifest["preprocessing"]

    def answer(window: torch.Tensor) -> torch.Tensor:
        return torch.softmax(network(window.contiguous(memory_format=torch.channels_last_3d)), 1)

    print("ready", flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        datasets = [pydicom.dcmread(path) for path in json.loads(line)]
        volume = from_datasets(datasets)
        prepared = preprocessing.prepare(volume, steps)
        image = torch.from_numpy(prepared.array)[None, None]
        with torch.inference_mode():
            found = sliding_window_inference(
                image, WINDOW, 1, answer, overlap=0.5, mode="gaussian",
                padding_mode="replicate",
            )[0].numpy()  # fmt: skip
        best = np.full(volume.shape, -1.0, dtype=np.float32)
        labels = np.zeros(volume.shape, dtype=np.uint8)
        for number in range(CLASSES):
            share = grids.resample_channels(found[number : number + 1], prepared, volume, outside=[number == 0])[0]
            better = share > best
            best[better], labels[better] = share[better], number
        written = segmentation.write(datasets, labels, opened.labels, series_description="bare")
        written.save_as(folder.parent / "bare.dcm")
        spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "voxels": int(labels.sum())}
        print(json.dumps(spent), flush=True)


def cpu_of(pids: list[int]) -> float:
    """Seconds of user and system time of these processes and their living children."""
    import psutil

    total = 0.0
    for pid in pids:
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            times = process.cpu_times()
            total += times.user + times.system
    return total


def archive(project: Any, count: int) -> list[Any]:
    """Series of phantoms in the archive."""
    import io

    import numpy as np

    from studies.dicom import phantom
    from studies.dicom.series import encode, image_series
    from studies.dicom.volume import Volume
    from studies.ingest import store
    from studies.models import ImportBatch, Series

    found = []
    for number in range(count):
        made = phantom.make(number)
        volume = Volume(np.kron(made.volume.array, np.ones([FINER] * 3, np.int16)), SPACING, made.volume.origin)
        sources = []
        for index, dataset in enumerate(
            image_series(encode(volume.array), volume.affine, made.identity, modality="CT")
        ):
            buffer = io.BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            sources.append((buffer.getvalue(), f"{index}.dcm"))
        batch = store.open_batch(project, ImportBatch.Source.COMMAND)
        outcomes = list(store.store_files(sources, batch=batch))
        found.append(Series.objects.get(pk=outcomes[0].instance.series_id))
    return found


def version_of(project: Any) -> Any:
    """A network with random weights: what it says does not matter, what it takes does."""
    import torch

    from inference.networks import table
    from inference.registry import bundle, services

    manifest = bundle.check_manifest(
        {
            "format": bundle.FORMAT,
            "task": "segmentation",
            "inputs": [{"name": "image", "modality": ["CT"]}],
            "preprocessing": PREPROCESSING,
            "network": {
                "name": "unet",
                "dimensions": 3,
                "parameters": {"channels": CHANNELS, "strides": STRIDES, "residual_units": 2},
            },
            "labels": [{"number": 1, "name": "Spleen"}],
            "output": {"activation": "softmax", "threshold": 0.5},
            "inference": {"window": WINDOW, "overlap": 0.5, "mirror": []},
        }
    )
    torch.manual_seed(0)
    network = table.build(
        "unet", dimensions=3, in_channels=1, out_channels=CLASSES, parameters=manifest["network"]["parameters"]
    )
    model = services.create_model(project=project, name="overhead", task="segmentation", by=None)
    return services.register_version(model, manifest, network.state_dict(), by=None)


def median(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} (n = {len(values)}, {min(values):.3f} to {max(values):.3f})"


def measure(studies: int, jobs: int, data: Path) -> None:
    from portal.runtime.data_folder import REPOSITORY, DataFolder
    from portal.runtime.embedded import EmbeddedServices

    services = EmbeddedServices(DataFolder(data))
    services.open()
    processes: list[subprocess.Popen[Any]] = []
    try:
        import django

        django.setup()
        from django.conf import settings
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        from benchmarks.noted_start import note
        from inference.jobs.services import submit
        from inference.jobs.waiting import wait
        from inference.prediction.models import Prediction
        from inference.prediction.services import start
        from inference.registry.services import folder_of
        from portal.accounts.services import create_project
        from portal.runtime import commands
        from portal.runtime.liveness import workers_alive
        from portal.runtime.workers import settings_environment

        project = create_project(slug="overhead", name="Overhead", by=None)
        series, version = archive(project, studies + 1), version_of(project)
        made = commands.worker("overhead", ["infer"], concurrency=1)
        environment = {**os.environ, **settings_environment()}
        worker = subprocess.Popen(
            [*made.command, "--include", "benchmarks.noted_start"], cwd=REPOSITORY, env=environment
        )
        processes.append(worker)
        loop = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.inference_overhead", "--bare", str(folder_of(version.bundle))],
            cwd=REPOSITORY, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        processes.append(loop)
        assert loop.stdin is not None
        assert loop.stdout is not None
        assert loop.stdout.readline() == "ready\n"
        while not workers_alive(["infer"])["infer"]:
            time.sleep(0.2)
        postmaster = int((DataFolder(data).postgres / "postmaster.pid").read_text().split()[0])

        portal: list[dict[str, float]] = []
        alone: list[dict[str, float]] = []
        for number, one in enumerate(series):

            def as_job(one: Any = one) -> None:
                cpu, database = cpu_of([worker.pid]), cpu_of([postmaster])
                job = wait(start(version, studies=[one.study], by=None), interval=0.05)
                assert job.result.get("stored") == 1, (job.state, job.cause, job.result)
                portal.append(
                    {
                        "cpu": cpu_of([worker.pid]) - cpu,
                        "database": cpu_of([postmaster]) - database,
                        "wall": (job.finished_at - job.started_at).total_seconds(),
                    }
                )

            def in_loop(one: Any = one) -> None:
                files = one.instances.order_by("pk").values_list("file", flat=True)
                loop.stdin.write(json.dumps([str(settings.MEDIA_ROOT / file) for file in files]) + "\n")
                loop.stdin.flush()
                alone.append(json.loads(loop.stdout.readline()))

            for turn in (as_job, in_loop) if number % 2 else (in_loop, as_job):
                turn()
            print(f"study {number}: job {portal[-1]}, loop {alone[-1]}", file=sys.stderr)
        assert Prediction.objects.count() == len(series)
        print(
            f"{studies} studies of {'×'.join(map(str, (96, 256, 256)))} voxels after one to warm up; s a study, median"
        )
        for name in ("cpu", "wall"):
            ours, theirs = ([entry[name] for entry in side[1:]] for side in (portal, alone))
            print(f"{name:5} job {median(ours)}; loop {median(theirs)}")
            print(f"      job / loop {median([a / b for a, b in zip(ours, theirs, strict=True)])}")
            print(f"      job − loop {median([a - b for a, b in zip(ours, theirs, strict=True)])}")
        whole = [entry["cpu"] + entry["database"] for entry in portal[1:]]
        pairs = zip(whole, [entry["cpu"] for entry in alone[1:]], strict=True)
        print(f"cpu with PostgreSQL: job / loop {median([a / b for a, b in pairs])}")

        latencies = []
        for number in range(jobs + 1):
            before = time.time()
            job = wait(submit(note, project=project, title="note", parameters={}, by=None), interval=0.05)
            if number:
                latencies.append(1000 * (job.result["started"] - before))
            time.sleep(0.05)
        print(f"from submit to the body's first line, ms, median: {median(latencies)}")
    finally:
        for process in processes:
            process.terminate()
            process.wait(30)
        services.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=6)
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--bare", type=Path, help="(the loop's own process) folder of the bundle")
    asked = parser.parse_args()
    if asked.bare:
        bare(asked.bare)
        return
    with tempfile.TemporaryDirectory(prefix="readroom-overhead-") as folder:
        data = Path(folder)
        data.chmod(0o711)  # PostgreSQL passes through it as another user where root measures
        os.environ |= {"DATA": folder, "DJANGO_SETTINGS_MODULE": "portal.settings.dev"}
        for name in ("DATABASE_URL", "CELERY_BROKER_URL", "MEDIA_ROOT"):
            os.environ.pop(name, None)
        measure(asked.studies, asked.jobs, data)


if __name__ == "__main__":
    main()

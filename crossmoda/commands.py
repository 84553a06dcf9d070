"""The commands of ``python -m crossmoda``. Each is a door: it calls one function of the library.

Imports sit inside the commands, so that ``--help`` answers at once and a check of files does not wait for PyTorch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fire

from crossmoda.errors import CrossmodaError
from crossmoda.progress import show_progress

SELF_TRAINING = Path("bundles/vs_cochlea_self_training/configs/train.yaml")
DEMO_CONFIG = Path("configs/demo.yaml")


class Commands:
    """Segment vestibular schwannoma and cochlea on hrT2, learnt from labelled ceT1 and unlabelled hrT2.

    The main work is run by MONAI bundles:
    python -m monai.bundle run --config_file bundles/vs_cochlea_self_training/configs/train.yaml --dataset_dir DATA
    --output_dir runs/NAME
    """

    def phantom(
        self,
        out: str,
        cases: int = 12,
        seed: int = 7,
        edition: str = "2022",
        validation: int | None = None,
        field_of_view_mm: tuple[float, float, float] | None = None,
        coarsen: float = 1.0,
        processes: int | None = None,
        source_truth: bool = False,
    ) -> None:
        """Write a synthetic dataset in crossMoDA's own layout, the targets' truth apart.

        Args:
            out: the folder to make.
            cases: labelled ceT1 patients, and as many unlabelled hrT2 patients.
            seed: the same seed gives the same bytes.
            edition: 2021, 2022 or 2023.
            validation: further hrT2 patients for validation; as many as cases by default.
            field_of_view_mm: x,y,z extent around the posterior fossa; the sites' own by default.
            coarsen: factor on the in-plane voxel size, for small machines.
            processes: at work at once; all cores by default.
            source_truth: also write each source patient's true hrT2 to truth/, to judge translations by.
        """
        from crossmoda.data.phantom import write_phantom_dataset

        write_phantom_dataset(
            out,
            cases=cases,
            seed=seed,
            edition=str(edition),
            validation=validation,
            field_of_view_mm=field_of_view_mm,
            coarsen=coarsen,
            processes=processes,
            source_truth=source_truth,
        )

    def check(self, dataset: str) -> int:
        """Tell what is in a dataset folder, and what is wrong with it; exit status 1 if something must be mended.

        Args:
            dataset: a crossMoDA folder of any edition, or a plain folder of NIfTI or NRRD files.
        """
        from crossmoda.data.checks import check_command

        return check_command(dataset)

    def teacher(self, out: str, cases: int = 640, seed: int = 0, processes: int | None = None) -> None:
        """Draw varied synthetic patients, which teach a segmenter for real hrT2 without a real label.

        OUT gets one tissue map a patient, 16 MB at most, which variant_synthetic_teacher.yaml of the segmentation
        bundle renders anew at every training step. Interrupted, or asked for more cases, the same command goes on.

        Args:
            out: the folder to make.
            cases: patients; one in five has no tumour.
            seed: the same seed gives the same patients.
            processes: at work at once; all cores by default.
        """
        from crossmoda.data.teacher import write_tissue_maps

        print(f"written: {write_tissue_maps(Path(out), cases=cases, seed=seed, workers=processes)}")

    def plan(
        self,
        dataset: str,
        output: str = "plan.yaml",
        memory_gb: float = 8.0,
        field_of_view_mm: tuple[float, float] | None = None,
    ) -> None:
        """Plan a DynUNet for a dataset by nnU-Net's rules and write it as an overlay of the segmentation bundle.

        Args:
            dataset: a dataset folder or a datalist.
            output: the YAML file to write, to be given after train.yaml and after inference.yaml.
            memory_gb: GPU memory that patch and batch are made to fit.
            field_of_view_mm: x,y extent of the crop about the brain that networks will see; whole scans by default.
        """
        from crossmoda.segmentation.planning import plan

        planned = plan(dataset, output, memory_gb=memory_gb, field_of_view_mm=field_of_view_mm)
        print(f"written: {output}; patch {planned.patch_size}, spacing {planned.spacing_mm} mm")

    def cross_validate(
        self,
        dataset: str,
        output_dir: str,
        config: str = "configs/cross_validation.yaml",
        device: str | None = None,
        scheduler: str | None = None,
    ) -> None:
        """Compare segmenters and post-processings on folds of patients; write the best as an overlay for inference.

        OUTPUT_DIR gets best.yaml, which goes after inference.yaml and ensemble.yaml of the segmentation bundle and says
        all that a prediction needs, cross_validation.md, .json and .png, and the weights of every fold. Interrupted,
        the same command goes on where it stopped.

        Args:
            dataset: a dataset folder or a datalist with labelled scans.
            output_dir: the folder to make.
            config: what is compared: networks, settings, post-processings, number of folds.
            device: cpu, cuda or cuda:1; the first GPU by default, if there is one.
            scheduler: of a Dask cluster whose workers do the folds, several at the same time: tcp://HOST:8786, or its
                --scheduler-file.
        """
        from crossmoda.self_training.cross_validation import cross_validate

        show_progress()
        table = cross_validate(dataset, output_dir, config, device, scheduler)
        print(f"\n{table}\nwritten: {Path(output_dir) / 'best.yaml'}")

    @fire.decorators.SetParseFn(str, "config")  # a list of files is no tuple
    def estimate(
        self,
        dataset: str,
        config: str = "",
        price_per_hour: float | None = None,
        output_dir: str | None = None,
        cases: int = 2,
        **settings: Any,
    ) -> None:
        """Tell what a run of the self-training loop will take, from a few timed steps on a few of its scans.

        Every kind of training and inference of the run is done once, in small, in a temporary folder. Printed are its
        seconds, how often it comes, hours in all and memory.

        Args:
            dataset: a dataset folder or a datalist.
            config: files after the loop's own train.yaml, merged from left to right: --config several times, or a list.
            price_per_hour: of the machine, in any currency; the run's cost is then told.
            output_dir: the run folder, which gets estimate.json, by which the run itself will tell the time left.
            cases: of source and of target, on which is measured; more are surer and slower.
            settings: of the loop, as on the command line of python -m monai.bundle run, e.g. --rounds 1.
        """
        from crossmoda.self_training.estimate import estimate_command

        files = [Path(file) for file in config.replace("'", "").strip("[] ").split(",") if file.strip()]
        show_progress()
        estimate_command(dataset, files, SELF_TRAINING, price_per_hour, output_dir, cases, settings)

    def evaluate(
        self, predictions: str, truth: str, output: str = "metrics.json", structures: str = "", edition: str = ""
    ) -> int:
        """Measure predictions against truth as the challenge does: Dice, ASSD and HD95 per case and in all.

        Args:
            predictions: folder of <case>_Label.nii.gz files.
            truth: folder of the true labels.
            output: the JSON file to write.
            structures: what the predictions' values 1, 2, ... mean, e.g. vs,cochlea; found out by default.
            edition: of the truth's labels (2021, 2022, 2023); told from the case names by default.
        """
        from crossmoda.evaluation.commands import evaluate_command

        return evaluate_command(predictions, truth, output, structures=structures, edition=str(edition))

    def compare(self, a: str, b: str, seed: int = 0) -> int:
        """Compare two metrics.json on their common cases: paired tests with correction, bootstrap intervals.

        Args:
            a: metrics.json of A.
            b: metrics.json of B; differences are B minus A.
            seed: of the bootstrap.
        """
        from crossmoda.evaluation.commands import compare_command

        return compare_command(a, b, seed)

    def rank(self, *systems: str, output: str = "ranking.json", edition: str = "", seed: int = 0) -> int:
        """Rank several systems as the challenge does: in every case by every structure and metric, then on average.

        All must have been scored on the same cases; a case without a prediction counts as an empty one.

        Args:
            systems: NAME=metrics.json for each, or folders that hold a metrics.json.
            output: the JSON file to write.
            edition: whose criteria count (2021, 2022, 2023); by default 2023 where all tell the tumour's parts.
            seed: of the bootstrap that says how stable the ranking is.
        """
        from crossmoda.evaluation.commands import rank_command

        return rank_command(systems, output, edition=str(edition), seed=seed)

    def submit(
        self, predictions: str, dataset: str, output: str = "submission", edition: str = "", structures: str = ""
    ) -> int:
        """Write predictions of the validation scans in the challenge's own format, after checking that all is there.

        Args:
            predictions: folder of <case>_Label.nii.gz files, or a run folder.
            dataset: the challenge's folder, or a plain folder of the scans that are to be submitted.
            output: the folder to make: the label maps, for 2021 and 2022 also as a zip, and manifest.json.
            edition: 2021, 2022 or 2023; the dataset's own by default.
            structures: what the predictions' values 1, 2, ... mean, e.g. vs,cochlea; found out by default.
        """
        from crossmoda.evaluation.commands import submit_command

        return submit_command(predictions, dataset, output, edition=str(edition), structures=structures)

    def report(self, run: str) -> None:
        """Write RUN/report.html, one page that opens offline."""
        from crossmoda.evaluation.report import write_report

        print(f"written: {write_report(run)}")

    def review(self, run: str, studies: str | None = None) -> None:
        """Put a run's pseudo-labels where 3D Slicer finds them, and tell what has been reviewed there.

        Args:
            run: the run folder.
            studies: MONAI Label's folder; RUN/review by default.
        """
        from crossmoda.self_training.review import review_command

        review_command(run, studies)

    def serve(
        self, run: str = "runs/demo", port: int = 8000, host: str = "127.0.0.1", dicomweb: str = "", scans: str = ""
    ) -> int:
        """Serve a run's current model and its target scans, or those of a hospital's archive, to 3D Slicer.

        Args:
            run: the run folder.
            port: to listen on.
            host: address to listen on; the default is this machine alone.
            dicomweb: address of the archive's DICOMweb server, http://HOST:PORT/dicom-web. RUN/review then mirrors it.
            scans: a folder of hrT2 scans of your own. RUN, a new folder, labels them with the segmentation bundle's own
                weights, models/model.pt; scans that are added later, when the same command is given again.
        """
        from crossmoda.self_training.review import serve_command

        if scans:
            show_progress()
        return serve_command(run, port=port, host=host, dicomweb=str(dicomweb), scans=str(scans))

    def fetch_series(self, dicomweb: str, folder: str, search: Any = None) -> int:
        """Write MR series of a hospital's archive as hrT2 scans, for a run whose review goes on in that archive.

        FOLDER/SeriesInstanceUID_hrT2.nii.gz are written, those that are not there yet; exit status 1 if some series
        make no volume. Name and password: MONAI_LABEL_DICOMWEB_USERNAME and MONAI_LABEL_DICOMWEB_PASSWORD in the
        environment.

        Args:
            dicomweb: address of the DICOMweb server: http://HOST:PORT/dicom-web.
            folder: the folder to make.
            search: what the series must match, by default '{"Modality": "MR"}'; narrow it by SeriesDescription.
        """
        from crossmoda.self_training.review_archive import fetch_command

        return fetch_command(str(dicomweb), str(folder), {"Modality": "MR"} if search is None else search)

    def add_user(self, studies_or_file: str, name: str, role: str) -> None:
        """Let a person use the review server, which asks everybody for a password from then on.

        The password is asked for, or read from the first line of stdin. The same command changes a password or a role.

        Args:
            studies_or_file: MONAI Label's folder (RUN/review), or a file, given to the server as --conf users FILE.
            name: as the labels will record it.
            role: viewer (sees scans and labels, asks for predictions), annotator (saves labels too), reviewer (verdicts
                and deletion too) or engineer (training, batches and logs too).
        """
        from crossmoda.self_training.review_access import add_user_command

        add_user_command(studies_or_file, str(name), role)

    def audit(self, studies: str, csv: str = "", check: bool = False, rebuild: bool = False) -> int:
        """Tell who saved, judged and deleted which label of a folder under review, newest last.

        Args:
            studies: MONAI Label's folder (RUN/review).
            csv: a file to write all of it to.
            check: compare labels, history and database instead; exit status 1 and a line for each thing that is wrong.
            rebuild: make the database audit.sqlite anew from the other files.
        """
        from crossmoda.self_training.review_history import audit_command

        return audit_command(studies, str(csv), check=check, rebuild=rebuild)

    def next_round(
        self,
        run: str,
        studies: str | None = None,
        scheduler: str | None = None,
        device: str | None = None,
        max_epochs: int | None = None,
        warm_start: bool | None = None,
        highest_uncertainty: float | None = None,
        learn_from: str | None = None,
    ) -> None:
        """Run one more round, which learns from the labels that clinicians have reviewed.

        Args:
            run: the run folder.
            studies: MONAI Label's folder; RUN/review by default.
            scheduler: of a Dask cluster whose workers do the steps: tcp://HOST:8786, or its --scheduler-file.
            device: cpu, cuda, cuda:1 ...; the first GPU, or else the CPU, by default.
            max_epochs: of the segmenter's training. This and the rest hold from this round on; not given, they stay.
            warm_start: begin with the weights of the round before.
            highest_uncertainty: of scans whose pseudo-label is learnt from, 0 to 1; 1 leaves none out.
            learn_from: all labels of real scans that the rules accept, reviewed ones alone, or approved ones alone.
        """
        from crossmoda.self_training import continue_run

        show_progress()
        options = {
            "max_epochs": max_epochs,
            "warm_start": warm_start,
            "highest_uncertainty": highest_uncertainty,
            "learn_from": learn_from,
        }
        given = {name: value for name, value in options.items() if value is not None}
        current = continue_run(run, studies, scheduler, given, device)
        print(f"round {current['round']} is served now: {Path(run) / current['segmenter']}")

    def demo(self, run: str = "runs/demo", dataset: str = "runs/demo_data") -> None:
        """Synthesise a small two-site dataset, run the whole loop on it, and write RUN/report.html.

        Args:
            run: the run folder.
            dataset: where the synthetic dataset goes.
        """
        from crossmoda.demo import run_demo

        for file in (SELF_TRAINING, DEMO_CONFIG):
            if not file.is_file():
                raise CrossmodaError(f"{file}: not found; run the demo from the project's root folder")
        show_progress()
        run_demo(Path(run), Path(dataset), [SELF_TRAINING, DEMO_CONFIG])

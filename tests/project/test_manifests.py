"""What `docs/distribution.md` gives to schedulers says what processes need."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from perigee._cli.launching import environments

DOCS = Path(__file__).parents[2] / "docs"

FIELDS = {
    "JobSet": {"apiVersion": str, "kind": str, "metadata": "Metadata", "spec": "JobSetSpec"},
    "Metadata": {"name": str},
    "JobSetSpec": {"failurePolicy": "FailurePolicy", "replicatedJobs": ["ReplicatedJob"]},
    "FailurePolicy": {"maxRestarts": int},
    "ReplicatedJob": {"name": str, "replicas": int, "template": "JobTemplate"},
    "JobTemplate": {"spec": "JobSpec"},
    "JobSpec": {
        "parallelism": int,
        "completions": int,
        "completionMode": str,
        "backoffLimit": int,
        "template": "PodTemplate",
    },
    "PodTemplate": {"spec": "PodSpec"},
    "PodSpec": {
        "restartPolicy": str,
        "terminationGracePeriodSeconds": int,
        "containers": ["Container"],
        "volumes": ["Volume"],
    },
    "Container": {
        "name": str,
        "image": str,
        "command": [str],
        "ports": ["Port"],
        "env": ["Variable"],
        "volumeMounts": ["Mount"],
    },
    "Port": {"containerPort": int},
    "Variable": {"name": str, "value": str, "valueFrom": "Source"},
    "Source": {"fieldRef": "FieldRef"},
    "FieldRef": {"fieldPath": str},
    "Mount": {"name": str, "mountPath": str},
    "Volume": {"name": str, "persistentVolumeClaim": "Claim"},
    "Claim": {"claimName": str},
}
"""Fields that the manifest uses of those of Kubernetes and of JobSet v1alpha2, and their types."""


def assert_fields(value, kind, place):
    """Check that a value has no field that Kubernetes does not know, nor one of another type."""
    if isinstance(kind, list):
        assert isinstance(value, list) and value, place
        for index, item in enumerate(value):
            assert_fields(item, kind[0], f"{place}[{index}]")
    elif isinstance(kind, str):
        assert value.keys() <= FIELDS[kind].keys(), place
        for name, held in value.items():
            assert_fields(held, FIELDS[kind][name], f"{place}.{name}")
    else:
        assert type(value) is kind, f"{place}: {value!r}"


def test_the_jobset_starts_workers_that_find_each_other_and_restarts_all_of_them():
    jobset = yaml.safe_load((DOCS / "manifests" / "jobset.yaml").read_text(encoding="utf-8"))

    assert_fields(jobset, "JobSet", "jobset")
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    (workers,) = jobset["spec"]["replicatedJobs"]
    job, pod = workers["template"]["spec"], workers["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {v["name"]: v.get("value") or v["valueFrom"] for v in container["env"]}
    name, (port,) = jobset["metadata"]["name"], container["ports"]
    first = f"{name}-{workers['name']}-0-0.{name}:{port['containerPort']}"
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert variables == {
        "KERAS_BACKEND": "jax",
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": first,
        "KERAS_DISTRIBUTION_NUM_PROCESSES": str(job["completions"]),
        "KERAS_DISTRIBUTION_PROCESS_ID": {"fieldRef": {"fieldPath": index}},
    }
    # A pod has no index unless the job gives one, and what restarts alone never finds the others.
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"]
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    assert container["command"][-1].startswith(tuple(mounts.values()))


@pytest.mark.parametrize(
    "scontrol",
    [
        "printf 'node7\\nnode8\\n'",
        # More than a pipe holds, a line at a time: it is still writing when the first one is read.
        "for ((i = 7; i < 9999; i++)); do echo node$i; done",
    ],
    ids=["at once", "slowly"],
)
def test_the_script_for_slurm_gives_each_task_its_number_and_the_first_node(tmp_path, scontrol):
    """With commands in the place of Slurm's that do what its manual says."""
    commands = {
        "scontrol": scontrol,
        "srun": 'shift; for i in 0 1; do SLURM_PROCID=$i "$@" || exit 1; done',
        "python": 'echo "$* $KERAS_BACKEND $KERAS_DISTRIBUTION_JOB_ADDRESSES '
        '$KERAS_DISTRIBUTION_NUM_PROCESSES $KERAS_DISTRIBUTION_PROCESS_ID"',
    }
    for name, body in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    script = DOCS / "manifests" / "slurm.sh"

    done = subprocess.run(
        ["bash", str(script)],
        env={
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "SLURM_JOB_NODELIST": "node[7-8]",
            "SLURM_NTASKS": "2",
        },
        capture_output=True,
        text=True,
    )

    assert done.stdout.splitlines() == [
        f"train.py --run runs/digits jax node7:1234 2 {index}" for index in range(2)
    ], done.stderr
    options = re.findall(r"^#SBATCH --([\w-]+)", script.read_text(encoding="utf-8"), re.MULTILINE)
    assert {"nodes", "ntasks-per-node", "requeue", "signal"} <= set(options)


def test_tf_config_on_the_page_is_what_launch_sets():
    page = (DOCS / "distribution.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)

    shown, set_ = json.loads(block), json.loads(environments(2)[0]["TF_CONFIG"])

    assert shown["task"] == set_["task"]
    assert shown["cluster"].keys() == set_["cluster"].keys()
    assert len(shown["cluster"]["worker"]) == len(set_["cluster"]["worker"])

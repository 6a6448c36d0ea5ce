"""Runs inside the oracle's environment: reads jobs on stdin, prints what sagemaker-training makes of each.

Nothing of ours is imported here, and nothing of theirs is changed: the functions are those that its `train` calls.
"""

import json
import logging
import os
import shutil
import sys

from sagemaker_training import environment, params, process


def _write(job):
    for directory in (environment.input_config_dir, environment.code_dir):
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
    for name, text in job["files"].items():
        with open(os.path.join(environment.input_config_dir, name), "w", encoding="utf-8") as file:
            file.write(text)
    for name in job["code"]:
        path = os.path.join(environment.code_dir, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8"):
            pass


def _answer(job, before):
    os.environ.clear()
    os.environ.update(before)
    os.environ.update(job["environ"])
    _write(job)
    try:
        env = environment.Environment()
        words, values = env.to_cmd_args(), env.to_env_vars()
        argv = process.ProcessRunner(env.user_entry_point, words, values, 1)._create_command()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    written = (params.JOB_NAME_ENV, params.CURRENT_HOST_ENV, params.REGION_NAME_ENV)
    return {"argv": argv, "words": words, "sm": values, "environ": {name: os.environ[name] for name in written}}


def main():
    """Answer all jobs in one process: importing boto3 for each would cost more than a second."""
    logging.disable(logging.CRITICAL)
    out, sys.stdout = sys.stdout, sys.stderr
    before = dict(os.environ)
    answers = [_answer(job, before) for job in json.load(sys.stdin)]
    json.dump(answers, out)


if __name__ == "__main__":
    main()

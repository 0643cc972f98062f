"""Prints `N passed, N failed` for a Bazel run: count_cases.py EVENTS FAILED

EVENTS is what `bazel test --build_event_json_file=EVENTS` wrote; FAILED is a number of failures from elsewhere to add.
Cases come from each test's XML: GoogleTest writes one a case, Bazel writes one for any other test. A test that ended
badly without a failed case, or a target that did not build, counts as one failure. The exit status is 0 only where
something passed and nothing failed.
"""

import json
import sys
import urllib.parse
import xml.etree.ElementTree


def count_xml(uri):
    """(passed, failed, skipped) cases in one test.xml."""
    passed = failed = skipped = 0
    for case in xml.etree.ElementTree.parse(urllib.parse.unquote(urllib.parse.urlparse(uri).path)).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        elif case.get("status") == "notrun" or case.get("result") == "skipped":
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def count(events):
    results = {}  # the last attempt of each test, shard and run
    broken = set()
    finished = False
    for event in events:
        kind = event["id"]
        if "testResult" in kind:
            key = kind["testResult"]
            results[key["label"], key.get("shard"), key.get("run")] = event.get("testResult", {})
        elif "targetCompleted" in kind:
            aborted = event.get("aborted", {}).get("reason")
            if aborted != "SKIPPED" and not event.get("completed", {}).get("success"):
                broken.add(kind["targetCompleted"]["label"])
        elif "buildFinished" in kind:
            # 3: tests failed, and each is counted by itself.
            finished = event.get("finished", {}).get("exitCode", {}).get("code", 0) in (0, 3)

    passed = failed = skipped = 0
    for (label, _, _), result in sorted(results.items(), key=str):
        outputs = {output["name"]: output.get("uri", "") for output in result.get("testActionOutput", [])}
        ok = result.get("status") == "PASSED"
        try:
            p, f, s = count_xml(outputs["test.xml"])
        except (KeyError, OSError, xml.etree.ElementTree.ParseError):
            p, f, s = int(ok), 0, 0
        if not ok and not f:
            f = 1
        passed, failed, skipped = passed + p, failed + f, skipped + s
        if f:
            print(f"{label}: {f} failed")
    for label in sorted(broken):
        print(f"{label}: not built")
    failed += len(broken)
    if not finished and not failed:
        print("the build did not finish")
        failed = 1
    if skipped:
        print(f"{skipped} skipped")
    return passed, failed


def main():
    with open(sys.argv[1]) as file:
        passed, failed = count([json.loads(line) for line in file])
    failed += int(sys.argv[2])
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0 or passed == 0)


main()

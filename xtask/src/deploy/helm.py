"""Lints and renders a chart. One argument, JSON: chart, values, name, namespace. Answers in JSON."""

import json
import sys

import helm_python as helm

request = json.loads(sys.argv[1])
values = request["values"]
INFO = 1
try:
    report = helm.lint(request["chart"], values, strict=True, namespace=request["namespace"])
    findings = [m["error"] for m in report["messages"] if m["severity"] > INFO] + report["errors"]
    with helm.Chart.load(request["chart"]) as chart:
        # Against the chart's own values with these over them, as an installation does.
        chart.validate_schema(chart.merge_values(values))
        templates = chart.render(values, name=request["name"], namespace=request["namespace"])
except helm.HelmError as error:
    sys.exit(f"helm: {error}")
json.dump({"findings": findings, "templates": templates}, sys.stdout)

"""What a real Prometheus answers about what the repository has for it: asked by integration/prometheus.sh.

    answers.py URL DASHBOARD count QUERY       how many series a query gives, or `error`
    answers.py URL DASHBOARD value QUERY       the sum of their numbers
    answers.py URL DASHBOARD alerts STATE      the alerts in a state, one a line: name, instance
    answers.py URL DASHBOARD rules             fails unless every rule was loaded and evaluated without an error
    answers.py URL DASHBOARD series            fails unless every series that rules and dashboard name is there
    answers.py URL DASHBOARD panel TITLE       the sum of the numbers that a panel shows

Only what Python itself has is used.
"""

import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request

# A metric, with what is asked of its labels.
SELECTOR = re.compile(r"\b(?:kith|process)_[a-z0-9_]+(?:\{[^}]*\})?|\bup\{[^}]*\}")


def ask(url, path, **parameters):
    try:
        with urllib.request.urlopen(f"{url}{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        sys.exit(f"Prometheus refuses {parameters}: {error.read().decode()}")


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def query(url, expression):
    return ask(url, "/api/v1/query", query=expression)["result"]


def rules_of(url):
    return [rule for group in ask(url, "/api/v1/rules")["groups"] for rule in group["rules"]]


def expressions_in(node):
    """Every query of a dashboard, wherever it stands, with what it is the query of."""
    if isinstance(node, list):
        for item in node:
            yield from expressions_in(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "expr":
                yield node.get("refId", "annotation"), value
            elif key == "definition":
                yield node["name"], re.sub(r"^label_values\((.*), \w+\)$", r"\1", value)
            else:
                yield from expressions_in(value)


def variables_of(url, dashboard):
    """What panels leave to Grafana, as it fills that in where all is chosen."""
    variables = {"$__rate_interval": "1m"}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] != "query":
            continue
        series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()
        found = {found["metric"][label] for found in query(url, filled_in(series, variables))}
        variables[f"${variable['name']}"] = variable.get("allValue") or f"({'|'.join(sorted(found))})"
    return variables


def filled_in(expression, variables):
    for variable, value in variables.items():
        expression = expression.replace(variable, value)
    if "$" in expression:
        sys.exit(f"a variable is not known here: {expression}")
    return expression


def check_layout(dashboard):
    """Panels have a title and numbers of their own, say what they show, and lie beside each other."""
    taken, numbers = {}, set()
    for panel in dashboard["panels"]:
        name, at = panel.get("title"), panel["gridPos"]
        if not name or panel["id"] in numbers:
            yield f"panel {panel['id']} has no title, or its number twice"
        numbers.add(panel["id"])
        if panel["type"] != "row" and not (panel.get("description") and panel.get("targets")):
            yield f"{name}: there is no description or no query"
        if at["x"] + at["w"] > 24:
            yield f"{name}: it is wider than the page"
        for place in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            if taken.setdefault(place, name) != name:
                yield f"{name}: it covers {taken[place]}"
                break


def missing_series(url, dashboard):
    """What is asked for and not there: by rules in parts, by panels in parts and as a whole."""
    variables = variables_of(url, dashboard)
    asked = [(f"alert {rule['name']}", rule["query"]) for rule in rules_of(url)]
    for panel in dashboard["panels"]:
        asked += [(f"panel {panel['title']}, {at}", filled_in(query, variables)) for at, query in expressions_in(panel)]
    rest = {key: value for key, value in dashboard.items() if key != "panels"}
    asked += [(f"dashboard, {at}", filled_in(query, variables)) for at, query in expressions_in(rest)]
    if len(asked) < 50:
        yield f"only {len(asked)} queries were found; are these the right files?"
    known = {}
    for where, expression in asked:
        selectors = SELECTOR.findall(expression)
        if not selectors and "ALERTS{" not in expression:
            yield f"{where}: no metric is recognized in {expression}"
        for selector in selectors:
            # A rule asks for what went wrong, which no healthy member has; so comparisons are left out.
            if selector not in known:
                known[selector] = bool(query(url, selector))
            if not known[selector]:
                yield f"{where}: no member has {selector}"
        if where.startswith("panel") and not query(url, expression):
            yield f"{where}: nothing is shown by {expression}"


def main():
    url, path, what, *rest = sys.argv[1:]
    if what == "count":
        print(len(query(url, rest[0])))
    elif what == "value":
        print(sum(float(series["value"][1]) for series in query(url, rest[0])))
    elif what == "alerts":
        for alert in ask(url, "/api/v1/alerts")["alerts"]:
            if alert["state"] == rest[0]:
                print(alert["labels"]["alertname"], alert["labels"].get("instance", ""))
                if any("error" in text for text in alert["annotations"].values()):
                    sys.exit(f"a text of this alert can't be written: {alert['annotations']}")
    elif what == "rules":
        bad = [rule for rule in rules_of(url) if rule["health"] != "ok"]
        if bad or not rules_of(url):
            sys.exit(f"rules are not well: {bad or 'there are none'}")
    elif what == "panel":
        dashboard = read(path)
        [panel] = [panel for panel in dashboard["panels"] if panel.get("title") == rest[0]]
        variables = variables_of(url, dashboard)
        found = [found for _, expression in expressions_in(panel) for found in query(url, filled_in(expression, variables))]
        print(sum(float(series["value"][1]) for series in found))
    elif what == "series":
        dashboard = read(path)
        wrong = [*check_layout(dashboard), *missing_series(url, dashboard)]
        if wrong:
            sys.exit("\n".join(wrong))
    else:
        sys.exit(f"what is {what}?")


main()

"""Whether Grafana would find what the example provisions for it: grafana.py EXAMPLE

EXAMPLE is the directory of the compose file. Data sources and dashboards must be where that file mounts them, the data source
the Prometheus beside it, asking as often as that one scrapes; and whatever source the dashboards name must be provisioned.
Ends with 1 and all that is wrong. Needs PyYAML (Debian: python3-yaml).
"""

import json
import pathlib
import sys
import urllib.parse

import yaml


def load(path):
    try:
        with open(path, encoding="utf-8") as file:
            return yaml.safe_load(file)
    except (OSError, yaml.YAMLError) as error:
        sys.exit(f"{path} can't be read: {error}")


def mounted(example, service):
    """The directory of the example behind each place in a container."""
    volumes = (volume.split(":") for volume in service["volumes"])
    return {target: example / source for source, target, *_ in volumes if source.startswith("./")}


def provisioned(directory, kind):
    """What all files of a kind provision."""
    found = []
    for path in sorted((directory / kind).glob("*.yml")):
        document = load(path)
        if document.get("apiVersion") != 1:
            yield f"{path}: its version is {document.get('apiVersion')}, not 1"
        found += document.get("providers" if kind == "dashboards" else kind, [])
    if not found:
        yield f"{directory / kind}: nothing is provisioned"
    return found


def of_sources(sources, services, scraped_every):
    for source in sources:
        name = source.get("name")
        lacks = [key for key in ("name", "type", "uid", "url", "access") if not source.get(key)]
        if lacks:
            yield f"the source {name} lacks {lacks}"
            continue
        url = urllib.parse.urlsplit(source["url"])
        ports = [str(port).rsplit(":", 1)[-1] for port in services.get(url.hostname, {}).get("ports", [])]
        if str(url.port) not in ports:
            yield f"the source {name} is at {source['url']}, where no service listens"
        if source.get("jsonData", {}).get("timeInterval") != scraped_every:
            yield f"the source {name} has another interval than {scraped_every}, in which Prometheus scrapes"
    if [source.get("isDefault") for source in sources].count(True) != 1:
        yield "not one source is the one that is taken where none is named"


def sources_in(node):
    """Every source that something in a dashboard names."""
    if isinstance(node, list):
        for item in node:
            yield from sources_in(item)
    elif isinstance(node, dict):
        named = node.get("datasource")
        if isinstance(named, dict):
            yield named["type"], named["uid"]
        for item in node.values():
            yield from sources_in(item)


def of_dashboard(path, sources):
    known = {(source.get("type"), source.get("uid")) for source in sources}
    with open(path, encoding="utf-8") as file:
        dashboard = json.load(file)
    chosen = {}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "datasource":
            chosen[f"${{{variable['name']}}}"] = variable["current"]["value"]
    named = {(kind, chosen.get(uid, uid)) for kind, uid in sources_in(dashboard)}
    if not named:
        yield f"{path}: no source is named; is this a dashboard?"
    for kind, uid in sorted(named - known):
        yield f"{path}: there is no source {uid} of the type {kind}"


def problems(example):
    services = load(example / "docker-compose.yml")["services"]
    scraped_every = load(example / "prometheus" / "prometheus.yml")["global"]["scrape_interval"]
    grafana = services["grafana"]
    places = mounted(example, grafana)
    provisioning = places["/etc/grafana/provisioning"]
    sources = yield from provisioned(provisioning, "datasources")
    yield from of_sources(sources, services, scraped_every)
    providers = yield from provisioned(provisioning, "dashboards")
    dashboards = []
    for provider in providers:
        path = provider["options"]["path"]
        if path not in places:
            yield f"dashboards are looked for in {path}, where nothing of the example is mounted"
        else:
            dashboards += sorted(places[path].glob("*.json"))
    if not dashboards:
        yield "there is no dashboard"
    for path in dashboards:
        yield from of_dashboard(path, sources)
    home = pathlib.PurePosixPath(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    if not (places.get(str(home.parent), example / "nowhere") / home.name).is_file():
        yield f"the page that is shown first, {home}, is not there"


if len(sys.argv) != 2:
    sys.exit(__doc__)
wrong = list(problems(pathlib.Path(sys.argv[1])))
if wrong:
    sys.exit("\n".join(wrong))

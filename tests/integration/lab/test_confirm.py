# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a weight is confirmed: against gateways and sidecars of our own, whose admin ports, rights and faults differ."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _confirm, _envoy, _istiod, _kube, _pod_exec
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

from .conftest import GATEWAY, Mesh, connection, wait_until
from .proxies import allow_sidecars, attach, ready_pods, start_gateway, start_proxy, stop_proxy

ISTIOD = "http://10.77.0.2:15014"
PROMETHEUS = "http://10.79.0.52:9090"
OBSERVED = {"prometheus_url": PROMETHEUS, "preset": "gateway_requests", "scrape_interval": 1, "timeout": 60}


@pytest.fixture(scope="module")
def own(shared_mesh: Mesh) -> str:
    """Selector of a gateway of our own, whose admin interface is bound to 127.0.0.1 as a stock istio-proxy's."""
    return start_gateway(shared_mesh, "own")


@pytest.fixture(scope="module")
def caller(shared_mesh: Mesh) -> str:
    """Selector of a sidecar of our own, whose admin interface can be reached."""
    allow_sidecars(shared_mesh)
    return start_proxy(shared_mesh, "caller", kind="sidecar", admin="0.0.0.0")


def by_own(mesh: Mesh, own: str, **options: Any) -> dict[str, Any]:
    """Options that confirm at our own gateway, to which the route is attached."""
    attach(mesh, f"{mesh.namespace}/own")
    return {"namespace": mesh.namespace, "selector": own, "timeout": 20, **options}


def test_both_gateways_confirm_through_the_pod_proxy(mesh: Mesh) -> None:
    confirmed = mesh.shift(10)["confirmed"]
    assert (confirmed["method"], confirmed["state"], confirmed["gateways"], confirmed["sidecars"]) == ("envoy", "confirmed", 2, 0)


def test_admin_port_on_loopback_is_read_by_a_command_in_the_pod(mesh: Mesh, own: str) -> None:
    confirmed = mesh.shift(10, confirm=by_own(mesh, own))["confirmed"]
    assert (confirmed["method"], confirmed["state"], confirmed["gateways"]) == ("exec", "confirmed", 1)


def test_exec_alone_confirms_as_well(mesh: Mesh, own: str) -> None:
    assert mesh.shift(20, confirm=by_own(mesh, own, method="exec"))["confirmed"]["state"] == "confirmed"


def test_pod_proxy_alone_cannot_confirm_there_and_says_why(mesh: Mesh, own: str) -> None:
    with pytest.raises(_confirm.Unconfirmed, match=r"UNCONFIRMED.*cannot be read.*connection refused") as caught:
        mesh.shift(10, confirm=by_own(mesh, own, method="envoy"))
    assert caught.value.result["changed"] is True and caught.value.result["after"] == {"stable": 90, "canary": 10}
    assert caught.value.result["confirmed"]["state"] == "unconfirmed"


def test_unconfirmed_that_is_accepted_is_a_result_and_not_an_error(mesh: Mesh, own: str) -> None:
    result = mesh.shift(10, confirm=by_own(mesh, own, method="envoy", accept_unconfirmed=True))
    assert result["changed"] and result["confirmed"]["state"] == "unconfirmed"
    assert "connection refused" in result["confirmed"]["reason"]


def test_without_any_ready_gateway_nothing_is_written(mesh: Mesh) -> None:
    with pytest.raises(_confirm.Unconfirmed, match=r"No ready gateway pod.*istio=nobody.*Nothing was written"):
        mesh.shift(10, confirm={"selector": "istio=nobody", "timeout": 0.3})
    assert mesh.weights() == [100, 0]


def test_way_back_is_written_even_without_any_ready_gateway(mesh: Mesh) -> None:
    mesh.shift(10)
    with pytest.raises(_confirm.Unconfirmed, match="No ready gateway pod") as caught:
        mesh.shift(0, confirm={"selector": "istio=nobody", "timeout": 0.3})
    assert mesh.weights() == [100, 0] and caught.value.result["changed"] is True


# ---------------------------------------------------------------------------------------------------- rights


@pytest.fixture(scope="module")
def without_exec(shared_mesh: Mesh) -> dict[str, Any]:
    """Connection options of an account that may change routes and use the pod proxy, but not exec."""
    return _account(shared_mesh, "no-exec", [{"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["get"]}])


def _account(mesh: Mesh, name: str, more: list[dict[str, Any]]) -> dict[str, Any]:
    rights = [
        {"apiGroups": ["networking.istio.io"], "resources": ["virtualservices", "destinationrules"], "verbs": ["get", "list", "patch"]},
        {"apiGroups": [""], "resources": ["pods", "services"], "verbs": ["get", "list"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list"]},
        *more,
    ]
    metadata = {"name": name, "namespace": mesh.namespace}
    subjects = [{"kind": "ServiceAccount", **metadata}]
    accounts = mesh.path("serviceaccounts", None, ("", "v1"))
    rbac = "rbac.authorization.k8s.io"
    role = {"apiGroup": rbac, "kind": "Role", "name": name}
    for path, body in (
        (accounts, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
        (mesh.path("roles", None, (rbac, "v1")), {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": metadata, "rules": rights}),
        (
            mesh.path("rolebindings", None, (rbac, "v1")),
            {"apiVersion": f"{rbac}/v1", "kind": "RoleBinding", "metadata": metadata, "roleRef": role, "subjects": subjects},
        ),
    ):
        mesh.kube.post(path, body)
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = mesh.kube.post(f"{accounts}/{name}/token", request)["status"]["token"]
    admin = mesh.kube._configuration
    return {"kubeconfig": None, "host": mesh.kube.server, "api_key": token, "ca_cert": admin.ssl_ca_cert}


def test_without_the_right_to_exec_it_is_unconfirmed_and_names_the_right(mesh: Mesh, own: str, without_exec: dict[str, Any]) -> None:
    with pytest.raises(_confirm.Unconfirmed, match=r"connection refused; exec: forbidden \(403\).*pods/exec"):
        mesh.shift(10, confirm=by_own(mesh, own), **without_exec)
    assert mesh.weights() == [90, 10]


@contextmanager
def traffic(host: str) -> Iterator[None]:
    """Requests through the lab's gateways, one after the other, as long as the block lasts."""
    over = threading.Event()

    def send() -> None:
        connection = http.client.HTTPConnection(GATEWAY, 80, timeout=5)
        while not over.wait(0.004):
            connection.request("GET", "/probe", headers={"Host": host})
            connection.getresponse().read()
        connection.close()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(10)


def test_without_the_right_to_exec_the_observed_share_confirms(mesh: Mesh, own: str, without_exec: dict[str, Any]) -> None:
    confirm = by_own(mesh, own, observed=OBSERVED)
    attach(mesh, "signal/edge", f"{mesh.namespace}/own")
    with traffic(mesh.host):
        confirmed = mesh.shift(50, confirm=confirm, **without_exec)["confirmed"]
    assert (confirmed["method"], confirmed["state"]) == ("observed", "confirmed")
    assert confirmed["requests"] >= 100 and 35 < confirmed["share"] < 65
    assert "envoy_cluster_upstream_rq" in confirmed["query"]


def test_share_of_everything_is_seen_as_100_percent(mesh: Mesh) -> None:
    with traffic(mesh.host):
        confirmed = mesh.shift(100, confirm={"method": "observed", "observed": OBSERVED})["confirmed"]
    assert confirmed["state"] == "confirmed" and confirmed["share"] == 100.0


def test_without_traffic_the_observed_share_proves_nothing(mesh: Mesh) -> None:
    confirm = {"method": "observed", "observed": {**OBSERVED, "timeout": 4.5}}
    with pytest.raises(_confirm.Unconfirmed, match=r"counted 0 requests since the write, and 100 are needed"):
        mesh.shift(10, confirm=confirm)


def test_share_that_disagrees_is_told_with_its_band(mesh: Mesh) -> None:
    # These two queries count the same requests, so the share is 50 % whatever the weight.
    counter = f'envoy_cluster_upstream_rq{{envoy_cluster_name="outbound|80|v1|echo.{mesh.namespace}.svc.cluster.local"}}'
    queries = {"prometheus_url": PROMETHEUS, "stable_query": counter, "canary_query": counter, "scrape_interval": 1, "timeout": 12}
    with traffic(mesh.host), pytest.raises(_confirm.Unconfirmed, match=r"the canary has 50.00 % of the last \d+ requests, expected"):
        mesh.shift(10, confirm={"method": "observed", "observed": queries})


def test_counters_that_cannot_be_asked_leave_the_weight_unconfirmed(mesh: Mesh) -> None:
    observed = {**OBSERVED, "prometheus_url": "http://10.77.0.2:9", "timeout": 4.5}
    with pytest.raises(_confirm.Unconfirmed, match="Prometheus: cannot reach"):
        mesh.shift(10, confirm={"method": "observed", "observed": observed})


# ---------------------------------------------------------------------------------------------------- gateways that come and go


def test_gateway_without_the_weights_blocks_until_it_is_gone(mesh: Mesh, own: str) -> None:
    confirm = by_own(mesh, own, timeout=60)
    start_proxy(mesh, "lost", group="own", lost=True)
    outcomes: list[Any] = []
    shift = threading.Thread(target=lambda: outcomes.append(mesh.shift(10, confirm=confirm)["confirmed"]))
    shift.start()
    wait_until("the weight is written", lambda: mesh.weights() == [90, 10])
    shift.join(3)
    assert outcomes == []
    stop_proxy(mesh, "lost")
    shift.join(60)
    assert [(outcome["state"], outcome["gateways"]) for outcome in outcomes] == [("confirmed", 1)]


def test_gateway_that_becomes_ready_meanwhile_must_show_the_weights_too(mesh: Mesh, own: str) -> None:
    confirm = by_own(mesh, own, timeout=60)
    start_proxy(mesh, "lost", group="own", lost=True)
    try:
        outcomes: list[Any] = []
        shift = threading.Thread(target=lambda: outcomes.append(mesh.shift(10, confirm=confirm)["confirmed"]))
        shift.start()
        wait_until("the weight is written", lambda: mesh.weights() == [90, 10])
        start_proxy(mesh, "late", group="own")
        stop_proxy(mesh, "lost")
        shift.join(60)
        assert [(outcome["state"], outcome["gateways"]) for outcome in outcomes] == [("confirmed", 2)]
    finally:
        stop_proxy(mesh, "late")
        wait_until("the late gateway is gone", lambda: len(ready_pods(mesh, own)) == 1)


def test_gateways_that_lag_are_named_with_what_they_show(mesh: Mesh, own: str) -> None:
    confirm = by_own(mesh, own, timeout=1)
    start_proxy(mesh, "lost", group="own", lost=True)
    try:
        with pytest.raises(_confirm.Unconfirmed, match=r"after 1 s 1 of 2 proxies do not have them \(lost-\S+: no such route\)"):
            mesh.shift(10, confirm=confirm)
    finally:
        stop_proxy(mesh, "lost")
        wait_until("the lost gateway is gone", lambda: len(ready_pods(mesh, own)) == 1)


# ---------------------------------------------------------------------------------------------------- sidecars


def test_sidecar_of_a_caller_shows_the_weights_of_a_route_in_the_mesh(mesh: Mesh, caller: str) -> None:
    attach(mesh, "mesh")
    confirmed = mesh.shift(10, confirm={"sidecars": {"selector": caller}})["confirmed"]
    assert (confirmed["state"], confirmed["gateways"], confirmed["sidecars"]) == ("confirmed", 0, 1)


def test_route_on_gateways_and_in_the_mesh_needs_both(mesh: Mesh, caller: str) -> None:
    attach(mesh, "signal/edge", "mesh")
    confirmed = mesh.shift(10, confirm={"sidecars": {"selector": caller}})["confirmed"]
    assert (confirmed["state"], confirmed["gateways"], confirmed["sidecars"]) == ("confirmed", 2, 1)


def test_shift_waits_for_the_sidecar(mesh: Mesh, caller: str) -> None:
    attach(mesh, "signal/edge", "mesh")
    start_proxy(mesh, "deaf", kind="sidecar", admin="0.0.0.0", group="caller", lost=True)
    try:
        with pytest.raises(_confirm.Unconfirmed, match=r"1 of 4 proxies do not have them \(deaf-\S+: no such route\)"):
            mesh.shift(10, confirm={"sidecars": {"selector": caller, "sample": 2}, "timeout": 1})
    finally:
        stop_proxy(mesh, "deaf")
        wait_until("the deaf sidecar is gone", lambda: len(ready_pods(mesh, caller)) == 1)


def test_sample_bounds_the_number_of_sidecars_that_are_asked(mesh: Mesh, caller: str) -> None:
    attach(mesh, "mesh")
    start_proxy(mesh, "second", kind="sidecar", admin="0.0.0.0", group="caller")
    try:
        assert mesh.shift(10, confirm={"sidecars": {"selector": caller, "sample": 1}})["confirmed"]["sidecars"] == 1
        assert mesh.shift(20, confirm={"sidecars": {"selector": caller, "sample": 5}})["confirmed"]["sidecars"] == 2
    finally:
        stop_proxy(mesh, "second")
        wait_until("the second sidecar is gone", lambda: len(ready_pods(mesh, caller)) == 1)


def test_route_for_sidecars_only_is_not_moved_while_nobody_says_whose(mesh: Mesh) -> None:
    attach(mesh, "mesh")
    with pytest.raises(_confirm.Unconfirmed, match=r"applies to sidecars only.*confirm.sidecars.*Nothing was written"):
        mesh.shift(10)
    assert mesh.weights() == [100, 0]


def test_sidecars_that_do_not_exist_are_told_before_the_write(mesh: Mesh) -> None:
    attach(mesh, "signal/edge", "mesh")
    with pytest.raises(_confirm.Unconfirmed, match=r"No ready pod with container istio-proxy.*app=nobody.*Nothing was written"):
        mesh.shift(10, confirm={"sidecars": {"selector": "app=nobody"}})
    assert mesh.weights() == [100, 0]


# ---------------------------------------------------------------------------------------------------- rejections


@contextmanager
def poisoned(mesh: Mesh, patch: dict[str, Any]) -> Iterator[None]:
    """An EnvoyFilter on our own gateway alone that makes what istiod sends to it invalid."""
    filters = mesh.path("envoyfilters", None, ("networking.istio.io", "v1alpha3"))
    mesh.kube.post(
        filters,
        {
            "apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter", "metadata": {"name": "poison"},
            "spec": {"workloadSelector": {"labels": {"istio": f"{mesh.namespace}-own"}}, "configPatches": [patch]},
        },
    )
    try:
        yield
    finally:
        mesh.kube.delete(f"{filters}/poison")


def doubled_domain(mesh: Mesh) -> dict[str, Any]:
    value = {"name": "double", "domains": [mesh.host], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "BlackHoleCluster"}}]}
    return {"applyTo": "VIRTUAL_HOST", "match": {"context": "GATEWAY"}, "patch": {"operation": "ADD", "value": value}}


def _first_rejection(mesh: Mesh, own: str) -> None:
    """Wait until the poison has been refused once, so that the shift's own push is the one that counts."""
    pod = ready_pods(mesh, own)[0]
    node = f"{pod}.{mesh.namespace}"
    wait_until("the gateway has rejected the poison", lambda: (_istiod.read(mesh.kube, {"url": ISTIOD}) or _istiod.Counts()).errors("rds", node))


def test_rejected_configuration_ends_the_wait_with_the_reason_from_the_proxys_log(mesh: Mesh, own: str) -> None:
    confirm = by_own(mesh, own, timeout=60)
    mesh.shift(0, confirm=confirm)
    with poisoned(mesh, doubled_domain(mesh)):
        _first_rejection(mesh, own)
        with pytest.raises(_confirm.Rejected, match=r"REJECTED.*Only unique values for domains.*its log says so") as caught:
            mesh.shift(10, confirm=confirm)
    assert "stable=100 canary=0" in caught.value.message
    assert caught.value.result["confirmed"]["state"] == "unconfirmed" and caught.value.result["changed"] is True
    assert mesh.shift(10, confirm=confirm)["confirmed"]["state"] == "confirmed"


def test_first_rejection_of_a_gateway_is_seen_in_istiods_count(mesh: Mesh, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start_proxy(mesh, "clean", group="own")
    confirm = by_own(mesh, own, timeout=60, selector="app=clean", istiod={"url": ISTIOD})
    mesh.shift(0, confirm=confirm)
    original = _kube.Kube.patch
    poison = poisoned(mesh, doubled_domain(mesh))

    def patch(self: _kube.Kube, path: str, *rest: Any, **options: Any) -> dict[str, Any]:
        # Somebody's EnvoyFilter reaches istiod in the same moment as the weight.
        if "virtualservices" in path:
            poison.__enter__()
        return original(self, path, *rest, **options)

    try:
        monkeypatch.setattr(_kube.Kube, "patch", patch)
        with pytest.raises(_confirm.Rejected, match=r"istiod counts it \(pilot_xds_rds_reject, node clean-\S+, Internal\)"):
            mesh.shift(10, confirm=confirm)
    finally:
        monkeypatch.undo()
        poison.__exit__(None, None, None)
        stop_proxy(mesh, "clean")
        wait_until("the clean gateway is gone", lambda: len(ready_pods(mesh, own)) == 1)


def test_rejection_is_never_accepted(mesh: Mesh, own: str) -> None:
    confirm = by_own(mesh, own, timeout=60, istiod={"url": ISTIOD}, accept_unconfirmed=True)
    mesh.shift(0, confirm=confirm)
    with poisoned(mesh, doubled_domain(mesh)):
        _first_rejection(mesh, own)
        with pytest.raises(_confirm.Rejected):
            mesh.shift(10, confirm=confirm)


def test_rejected_configuration_is_seen_in_envoys_own_count_without_istiod(mesh: Mesh, own: str) -> None:
    # A gateway of the same group whose admin port can be reached, so that its counters can be read before the write.
    start_proxy(mesh, "open", admin="0.0.0.0", group="own")
    confirm = by_own(mesh, own, timeout=60, selector="app=open")
    try:
        mesh.shift(0, confirm=confirm)
        with poisoned(mesh, doubled_domain(mesh)):
            _first_rejection(mesh, "app=open")
            with pytest.raises(_confirm.Rejected, match=r"Only unique values for domains.*Envoy counts it \(rds http.8080\)"):
                mesh.shift(10, confirm=confirm)
    finally:
        stop_proxy(mesh, "open")
        wait_until("the open gateway is gone", lambda: len(ready_pods(mesh, own)) == 1)


def test_listener_that_envoy_refused_is_the_reason_for_a_missing_route(mesh: Mesh, own: str) -> None:
    lua = {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua", "default_source_code": {"inline_string": "not lua ("}}
    value = {"name": "poison", "typed_config": lua}
    match = {"context": "GATEWAY", "listener": {"filterChain": {"filter": {"name": "envoy.filters.network.http_connection_manager"}}}}
    patch = {"applyTo": "HTTP_FILTER", "match": match, "patch": {"operation": "INSERT_FIRST", "value": value}}
    confirm = by_own(mesh, own, timeout=60, selector="app=fresh")
    with poisoned(mesh, patch):
        # Ready as soon as it was told about its listener, although it refused it.
        start_proxy(mesh, "fresh", group="own")
        try:
            with pytest.raises(_confirm.Rejected, match=r"REJECTED.*no such route.*0.0.0.0_8080: .*error_state"):
                mesh.shift(10, confirm=confirm)
        finally:
            stop_proxy(mesh, "fresh")
            wait_until("the fresh gateway is gone", lambda: len(ready_pods(mesh, own)) == 1)


def test_istiod_that_is_not_there_hinders_nothing(mesh: Mesh) -> None:
    assert mesh.shift(10, confirm={"istiod": {"url": "http://10.77.0.2:9"}})["confirmed"]["state"] == "confirmed"


# ---------------------------------------------------------------------------------------------------- reading one Envoy


def test_only_the_route_configurations_of_interest_are_asked_for(mesh: Mesh, caller: str) -> None:
    admin = _envoy.Admin(mesh.kube, 15000, "istio-proxy", (_envoy.PROXY,))
    proxy = _envoy.Proxy(mesh.namespace, ready_pods(mesh, caller)[0], "sidecar", _envoy.PROXY)
    everything = [config["route_config"]["name"] for config in admin.route_configs(proxy)["configs"]]
    assert "80" in everything and len(everything) > 1
    proxy.configs = ("80",)
    assert [config["route_config"]["name"] for config in admin.route_configs(proxy)["configs"]] == ["80"]


def test_bash_reads_the_admin_interface_where_there_is_no_other_program(mesh: Mesh, own: str) -> None:
    admin = _envoy.Admin(mesh.kube, 15000, "istio-proxy", (_envoy.EXEC,))
    admin._commands = [admin._bash]
    proxy = _envoy.Proxy(mesh.namespace, ready_pods(mesh, own)[0], "gateway", _envoy.EXEC)
    assert [config["route_config"]["name"] for config in admin.route_configs(proxy)["configs"]] == ["http.8080"]


def test_command_in_a_pod_gives_its_output_and_exit_code(mesh: Mesh, own: str) -> None:
    pod = ready_pods(mesh, own)[0]
    done = _pod_exec.run(mesh.kube, mesh.namespace, pod, "istio-proxy", ["bash", "-c", "echo out; echo err >&2; exit 3"], 10, 1000)
    assert (done.stdout, done.stderr, done.code) == (b"out\n", "err\n", 3)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["sleep", "30"], "no end within 1 s"),
        (["bash", "-c", "yes | head -c 5000"], "wrote more than 1 KiB"),
        (["no-such-program"], "executable file not found"),
    ],
)
def test_command_in_a_pod_is_bounded_in_time_and_output(mesh: Mesh, own: str, command: list[str], said: str) -> None:
    with pytest.raises(_pod_exec.ExecError, match=said):
        _pod_exec.run(mesh.kube, mesh.namespace, ready_pods(mesh, own)[0], "istio-proxy", command, 1, 1024)


def test_pod_that_does_not_exist_is_an_error_of_the_api(mesh: Mesh) -> None:
    with pytest.raises(_kube.KubeError) as caught:
        _pod_exec.run(mesh.kube, mesh.namespace, "nobody", "istio-proxy", ["true"], 5, 1024)
    assert caught.value.status == 404


def test_exec_over_an_unreachable_api_is_told(mesh: Mesh) -> None:
    nowhere = _kube.connect({**connection(), "kubeconfig": None, "host": "https://10.77.0.2:9"})
    with pytest.raises(RolloutError, match="No answer from the Kubernetes API"):
        _pod_exec.run(nowhere, mesh.namespace, "nobody", "istio-proxy", ["true"], 2, 1024)


def test_nothing_is_asked_of_the_api_before_a_write_that_takes_traffic_away(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh.shift(10)
    calls: list[str] = []
    original = _kube.Kube._call

    def call(self: _kube.Kube, method: str, target: str, *rest: Any) -> Any:
        calls.append(f"{method} {target}")
        return original(self, method, target, *rest)

    monkeypatch.setattr(_kube.Kube, "_call", call)
    mesh.shift(0)
    written = next(place for place, text in enumerate(calls) if text.startswith("PATCH"))
    assert not [text for text in calls[:written] if "istio-system/pods" in text]
    assert [text for text in calls[written:] if "istio-system/pods" in text and "config_dump" in text]

"""Stands in for azurerm: knows what resources look like, and plans with values that are known after apply.

provider.py <schemas.json> <file for the address>; plugin_pb2 and plugin_pb2_grpc are on the path.
"""
import json
import os
import pathlib
import sys
from concurrent import futures

import grpc
import msgpack
import plugin_pb2 as wire
import plugin_pb2_grpc as rpc

UNKNOWN = msgpack.ExtType(0, b"\x00")
NESTING = {"single": 1, "list": 2, "set": 3}
# What a data source answers for a text; any id will do.
READ = "11111111-1111-1111-1111-111111111111"


def block(tree):
    attributes = []
    for name, one in sorted(tree["attributes"].items()):
        kind = "computed" if one.get("computed") else "required" if one.get("required") else "optional"
        attributes.append(wire.Schema.Attribute(name=name, type=json.dumps(one["type"]).encode(), **{kind: True}))
    nested = []
    for name, one in sorted(tree["blocks"].items()):
        counted = one["nesting"] != "single"
        limits = {"min_items": one["min"], "max_items": one["max"]} if counted else {}
        nested.append(wire.Schema.NestedBlock(type_name=name, block=block(one), nesting=NESTING[one["nesting"]], **limits))
    return wire.Schema.Block(attributes=attributes, block_types=nested)


def decode(value):
    if value.msgpack:
        return msgpack.unpackb(value.msgpack, raw=False, strict_map_key=False)
    return json.loads(value.json)


def encode(value):
    return wire.DynamicValue(msgpack=msgpack.packb(value, use_bin_type=True))


class Provider(rpc.ProviderServicer):
    def __init__(self, schemas):
        self.schemas = schemas
        provider = schemas["provider:provider"]
        provider["attributes"].pop("alias", None)  # Terraform's own
        provider["blocks"]["features"]["max"] = 1
        for feature in provider["blocks"]["features"]["blocks"].values():
            feature["max"] = 1

    def of(self, kind):
        return {name.split(":")[1]: wire.Schema(block=block(tree)) for name, tree in self.schemas.items() if name.startswith(kind)}

    def GetSchema(self, request, context):
        return wire.Schemas(
            provider=wire.Schema(block=block(self.schemas["provider:provider"])),
            resource_schemas=self.of("resource:"),
            data_source_schemas=self.of("data:"),
        )

    def PrepareProviderConfig(self, request, context):
        return wire.Prepared(prepared_config=request.config)

    def ValidateResourceTypeConfig(self, request, context):
        return wire.Diagnostics()

    def ValidateDataSourceConfig(self, request, context):
        return wire.Diagnostics()

    def Configure(self, request, context):
        return wire.Diagnostics()

    def UpgradeResourceState(self, request, context):
        return wire.Upgraded(upgraded_state=wire.DynamicValue(json=request.raw_state.json))

    def ReadResource(self, request, context):
        return wire.State(state=request.current_state)

    def PlanResourceChange(self, request, context):
        planned = decode(request.proposed_new_state)
        if planned is None:
            return wire.Planned(planned_state=request.proposed_new_state)
        for name, one in self.schemas["resource:" + request.type_name]["attributes"].items():
            if one.get("computed") and planned.get(name) is None:
                planned[name] = UNKNOWN
        return wire.Planned(planned_state=encode(planned))

    def ReadDataSource(self, request, context):
        state = decode(request.config)
        for name, one in self.schemas["data:" + request.type_name]["attributes"].items():
            if one.get("computed"):
                state[name] = READ
        return wire.State(state=encode(state))

    def Stop(self, request, context):
        return wire.Nothing()


def main(schemas, address):
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.max_send_message_length", -1)])
    rpc.add_ProviderServicer_to_server(Provider(json.loads(pathlib.Path(schemas).read_text())), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    reattach = {
        "hashicorp/azurerm": {
            "Protocol": "grpc",
            "ProtocolVersion": 5,
            "Pid": os.getpid(),
            "Test": True,
            "Addr": {"Network": "tcp", "String": f"127.0.0.1:{port}"},
        }
    }
    # Whole or not at all: somebody waits for the file.
    unfinished = pathlib.Path(address + ".part")
    unfinished.write_text(json.dumps(reattach))
    unfinished.rename(address)
    server.wait_for_termination()


main(*sys.argv[1:])

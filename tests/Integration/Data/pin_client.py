"""A client in another language, made from the published protos alone: maps, pins, unpins, reads a refusal."""
import sys

import grpc

from framepin.v1 import address_spaces_pb2 as spaces
from framepin.v1 import address_spaces_pb2_grpc as spaces_grpc
from framepin.v1 import memory_calls_pb2 as calls
from framepin.v1 import frames_pb2 as stops
from framepin.v1 import pinning_pb2 as pinning
from framepin.v1 import pinning_pb2_grpc as pinning_grpc

ADDRESS = 0x200000
DEADLINE = 20

with grpc.insecure_channel(sys.argv[1]) as channel:
    memory = spaces_grpc.AddressSpaceServiceStub(channel)
    pins = pinning_grpc.PinningServiceStub(channel)
    space = memory.CreateAddressSpace(spaces.CreateAddressSpaceRequest(), timeout=DEADLINE)
    call = calls.MemoryCall(mmap=calls.MmapCall(address=ADDRESS, length=3 * 4096, prot=3, flags=0x32))
    memory.Call(spaces.CallRequest(address_space=space.name, call=call), timeout=DEADLINE)
    pin = pins.Pin(pinning.PinRequest(address_space=space.name, start=ADDRESS, pages=4, write=True), timeout=DEADLINE)
    assert pin.stop_reason == stops.STOP_REASON_HOLE, pin
    frames = sum(pin.runs.counts) if pin.runs.counts else len(pin.runs.first_pfns)
    assert frames == 3, pin
    unpin = pins.Unpin(pinning.UnpinRequest(frame_vector=pin.frame_vector), timeout=DEADLINE)
    try:
        nowhere = pinning.PinRequest(address_space="machines/default/addressSpaces/none", start=0, pages=1)
        pins.Pin(nowhere, timeout=DEADLINE)
        raise AssertionError("an unknown address space was accepted")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error
        details = dict(error.trailing_metadata())["grpc-status-details-bin"]
        assert b"ADDRESS_SPACE_NOT_FOUND" in details and b"framepin.dev" in details, details
    print(f"pinned {pin.frames} of 4, then released {unpin.frames}; "
          "refused with ENOENT-like NOT_FOUND: ADDRESS_SPACE_NOT_FOUND")

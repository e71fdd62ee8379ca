"""The same engine in Python, from the published protos alone: serves DMA_COPY on a node until it is ended.

Make the stubs of protos/framepin/v1/*.proto and of dma_engine.proto with protoc and grpc_python_plugin, then:
    dma_engine.py [ENDPOINT [MACHINE [NODE]]]
"""
import queue
import struct
import sys
import threading

import grpc

import dma_engine_pb2 as dma
from framepin.v1 import drivers_pb2 as drivers
from framepin.v1 import drivers_pb2_grpc as drivers_grpc
from framepin.v1 import leases_pb2 as leases
from framepin.v1 import leases_pb2_grpc as leases_grpc
from framepin.v1 import memory_pb2 as memory
from framepin.v1 import memory_pb2_grpc as memory_grpc
from framepin.v1 import pinning_pb2 as pinning
from framepin.v1 import pinning_pb2_grpc as pinning_grpc

PAGE = 4096
CHUNK = 65536
DEADLINE = 30
EFAULT, EINVAL, ENOTTY = 14, 22, 25
UAPI = struct.Struct("<QQQQ")
DMA_COPY = 0xC0204401  # _IOWR('D', 1, struct dma_copy)


class Engine:
    """Pins both sides, copies from one to the other, unpins."""

    def __init__(self, channel, lease):
        self.pins = pinning_grpc.PinningServiceStub(channel)
        self.bytes = memory_grpc.MemoryServiceStub(channel)
        self.lease = lease

    def pin(self, space, address, length, write):
        """The name of a frame vector that holds every page, or None."""
        pages = (address + length - 1) // PAGE - address // PAGE + 1
        request = pinning.PinRequest(
            address_space=space, start=address, pages=pages, write=write, all_or_nothing=True, lease=self.lease)
        try:
            return self.pins.Pin(request, timeout=DEADLINE).frame_vector
        except grpc.RpcError:
            return None

    def unpin(self, vector, dirty):
        if vector is not None:
            self.pins.Unpin(pinning.UnpinRequest(frame_vector=vector, dirty=dirty), timeout=DEADLINE)

    def copy(self, space, argument):
        """Runs DMA_COPY: an errno and the argument as answered."""
        job = dma.DmaCopy.FromString(argument)
        if job.length == 0:
            return EINVAL, argument
        source = self.pin(space, job.source, job.length, False)
        destination = self.pin(space, job.destination, job.length, True) if source else None
        if destination:
            target = memory.MemoryTarget(name=source, position=job.source % PAGE)
            read = self.bytes.ReadMemory(memory.ReadMemoryRequest(target=target, length=job.length), timeout=DEADLINE)
            data = b"".join(part.data for part in read)
            self.bytes.WriteMemory(self.chunks(destination, job.destination % PAGE, data), timeout=DEADLINE)
            job.copied = len(data)
        self.unpin(destination, True)
        self.unpin(source, False)
        return (0 if destination else EFAULT), job.SerializeToString()

    def copy_uapi(self, space, argument):
        """Runs DMA_COPY in the form of Linux: struct dma_copy, four numbers of 64 bits."""
        if len(argument) != UAPI.size:
            return EFAULT, argument
        source, destination, length, _ = UAPI.unpack(argument)
        job = dma.DmaCopy(source=source, destination=destination, length=length)
        errno, answered = self.copy(space, job.SerializeToString())
        copied = dma.DmaCopy.FromString(answered).copied
        return errno, UAPI.pack(source, destination, length, copied)

    @staticmethod
    def chunks(vector, position, data):
        target = memory.MemoryTarget(name=vector, position=position)
        for at in range(0, len(data), CHUNK):
            yield memory.WriteMemoryRequest(target=target if at == 0 else None, data=data[at:at + CHUNK])


def keep_alive(channel, lease, ttl):
    """Says three times in a time to live that this process is alive; the daemon releases its pins when it is not."""
    ended = threading.Event()

    def beats():
        while not ended.wait(ttl / 3):
            yield leases.KeepAliveRequest(lease=lease)

    for _ in leases_grpc.LeaseServiceStub(channel).KeepAlive(beats()):
        pass


def main(endpoint="127.0.0.1:7461", machine="machines/default", node="dma0"):
    with grpc.insecure_channel(endpoint) as channel:
        lease = leases_grpc.LeaseServiceStub(channel).OpenLease(
            leases.OpenLeaseRequest(parent=machine, owner="dma-engine"), timeout=DEADLINE)
        seconds = lease.ttl.ToTimedelta().total_seconds()
        threading.Thread(target=keep_alive, args=(channel, lease.name, seconds), daemon=True).start()
        engine = Engine(channel, lease.name)
        replies = queue.Queue()
        register = drivers.RegisterDriver(machine=machine, node=node, driver="dma-engine")
        replies.put(drivers.DriverReply(register=register))
        for call in drivers_grpc.DriverServiceStub(channel).ServeDriver(iter(replies.get, None)):
            kind = call.WhichOneof("operation")
            answer = drivers.DriverAnswer(call=call.call)
            if call.HasField("refusal"):
                raise RuntimeError(f"the daemon took an answer not: {call.refusal.message}")
            if kind is None:
                print(f"dma-engine serves {machine}/drivers/{node}", flush=True)
                continue
            if kind == "interrupt":
                continue
            if kind == "ioctl":
                if call.ioctl.command == "DMA_COPY":
                    answer.errno, answer.argument = engine.copy(call.ioctl.address_space, call.ioctl.argument)
                elif call.ioctl.request == DMA_COPY:
                    answer.errno, answer.argument = engine.copy_uapi(call.ioctl.address_space, call.ioctl.argument)
                else:
                    answer.errno = ENOTTY
            replies.put(drivers.DriverReply(answer=answer))


if __name__ == "__main__":
    main(*sys.argv[1:])

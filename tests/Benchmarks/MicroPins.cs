using BenchmarkDotNet.Attributes;
using FramePin.Core.Abi;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;

namespace FramePin.Benchmarks;

/// <summary>Pin and unpin together, by BenchmarkDotNet, with what they allocate.</summary>
[MemoryDiagnoser]
public class MicroPins : IDisposable
{
    private const ulong At = 0x1_0000_0000;
    private Machine _machine = null!;
    private AddressSpace _space = null!;
    private FrameVector _vector = null!;

    [Params(1, 512)]
    public int Pages { get; set; }

    [GlobalSetup]
    public void Setup()
    {
        _machine = new Machine("micro", new MachineOptions { Profile = KernelProfile.Recorded });
        _space = _machine.CreateAddressSpace("app", new AddressSpaceLayout(), new TaskState())!;
        _machine.Mmap(_space, new MmapRequest
        {
            Address = At,
            Length = (ulong)Pages << 12,
            Prot = Prot.Read | Prot.Write,
            Flags = MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed,
        });
        var order = Enumerable.Range(0, Pages).ToArray();
        new Random(12345).Shuffle(order);
        foreach (var page in order) _machine.Touch(_space, At + ((ulong)page << 12), isWrite: true);
        _vector = _machine.CreateVector(Pages)!;
    }

    [GlobalCleanup]
    public void Dispose()
    {
        _machine.Dispose();
        GC.SuppressFinalize(this);
    }

    [Benchmark]
    public long PinAndUnpin()
    {
        var pages = _machine.GetVaddrFrames(_space, At, Pages, GupFlags.Write, _vector).Result.Pages;
        _machine.PutVaddrFrames(_vector);
        return pages;
    }
}

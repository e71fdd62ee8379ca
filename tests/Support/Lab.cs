using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Inspection;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;

namespace FramePin.Tests.Support;

/// <summary>
/// A small machine with one address space, and short words for the calls of tests. When it is disposed, it audits
/// itself, and replays its log on a new machine, which must end in the same state.
/// </summary>
internal sealed class Lab : IDisposable
{
    public const ulong Page = PageGeometry.PageSize;

    public Lab(string profile = "6.18", Func<MachineOptions, MachineOptions>? configure = null)
    {
        var options = new MachineOptions
        {
            Profile = KernelProfile.Find(profile)
                ?? throw new ArgumentException($"no profile {profile}", nameof(profile)),
            Memory = 64UL << 20,
            AuditsEachCommand = true,
        };
        options = configure?.Invoke(options) ?? options;
        _log = new MemoryStream();
        Machine = new Machine("lab", options, new MachineLog(_log, options));
        Space = Machine.CreateAddressSpace("app", new AddressSpaceLayout(), new TaskState())!;
    }

    /// <summary>The same words for a machine that somebody else owns, which this neither audits nor disposes.</summary>
    public Lab(Machine machine, AddressSpace space)
    {
        Machine = machine;
        Space = space;
        _isBorrowed = true;
    }

    private readonly bool _isBorrowed;

    /// <summary>Everything that happened to the machine; null for a borrowed one.</summary>
    private readonly MemoryStream? _log;

    public Machine Machine { get; }

    public AddressSpace Space { get; set; }

    public void Dispose()
    {
        if (_isBorrowed) return;
        var findings = Machine.Audit();
        var digest = Machine.Digest();
        Machine.Dispose();
        if (findings.Count > 0) throw new InvalidOperationException("audit: " + string.Join("; ", findings));
        Replay(digest);
    }

    private void Replay(string digest)
    {
        var replay = new MachineReplay("replay", _log!.ToArray());
        using var machine = replay.Machine;
        replay.RunToEnd();
        if (machine.Digest() != digest) throw new InvalidOperationException("the replay ends in another state");
    }

    /// <summary>Maps private anonymous pages at an address and stores to each unless told not to.</summary>
    public ulong Anon(ulong address, int pages, Prot prot = Prot.Read | Prot.Write, bool written = true)
    {
        Must(Map(address, pages, prot, MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed));
        if (written) Write(address, pages);
        return address;
    }

    public ulong SharedAnon(ulong address, int pages, Prot prot = Prot.Read | Prot.Write)
    {
        Must(Map(address, pages, prot, MapFlags.Shared | MapFlags.Anonymous | MapFlags.Fixed));
        return address;
    }

    public ulong File(
        ulong address, int pages, FileKind kind, MapFlags type, Prot prot, bool openWrite = true, int filePages = -1)
    {
        var file = Machine.CreateFile($"/{kind}", kind, (ulong)(filePages < 0 ? pages : filePages) * Page)!;
        return MapFile(address, pages, file, type, prot, openWrite);
    }

    public ulong MapFile(ulong address, int pages, MemoryFile file, MapFlags type, Prot prot, bool openWrite = true)
    {
        Must(Machine.Mmap(Space, new MmapRequest
        {
            Address = address,
            Length = (ulong)pages * Page,
            Prot = prot,
            Flags = type | MapFlags.Fixed,
            File = file,
            OpenedForWrite = openWrite,
        }));
        return address;
    }

    public ulong Device(
        ulong address, int pages, DeviceMapping mapping, bool isRam, Prot prot = Prot.Read
            | Prot.Write, bool isPrivate = false)
    {
        var device = Machine.CreateDevice(
            $"/dev/{mapping}", mapping, (ulong)pages, isRam, hasClose: false, isWritable: true)!;
        Must(MapDevice(address, pages, device, prot, isPrivate));
        return address;
    }

    public SyscallResult MapDevice(
        ulong address, int pages, Device device, Prot prot = Prot.Read | Prot.Write, bool isPrivate = false) =>
        Machine.Mmap(Space, new MmapRequest
        {
            Address = address,
            Length = (ulong)pages * Page,
            Prot = prot,
            Flags = (isPrivate ? MapFlags.Private : MapFlags.Shared) | MapFlags.Fixed,
            Device = device,
        });

    public SyscallResult Map(ulong address, int pages, Prot prot, MapFlags flags) =>
        Machine.Mmap(
            Space, new MmapRequest { Address = address, Length = (ulong)pages * Page, Prot = prot, Flags = flags });

    public void Write(ulong address, int pages)
    {
        var done = Machine.TouchRange(Space, address, pages, isWrite: true, out var signal);
        if (done != pages) throw new InvalidOperationException($"store {done} of {pages}: {signal}");
    }

    public void Load(ulong address, int pages)
    {
        var done = Machine.TouchRange(Space, address, pages, isWrite: false, out var signal);
        if (done != pages) throw new InvalidOperationException($"load {done} of {pages}: {signal}");
    }

    public void Poke(ulong address, byte value)
    {
        if (Machine.Write(Space, address, [value], out var signal) != 1)
            throw new InvalidOperationException($"store: {signal}");
    }

    public byte Peek(ulong address, AddressSpace? space = null)
    {
        Span<byte> one = stackalloc byte[1];
        if (Machine.Read(space ?? Space, address, one, out var signal) != 1)
            throw new InvalidOperationException($"load: {signal}");
        return one[0];
    }

    /// <summary>First byte of slot <paramref name="slot"/> as a device sees it.</summary>
    public byte PeekFrame(FrameVector vector, int slot = 0)
    {
        Span<byte> one = stackalloc byte[1];
        if (Machine.CopyFrames(vector, (ulong)slot * Page, one, isWrite: false, out var error) != 1)
            throw new InvalidOperationException($"{error}");
        return one[0];
    }

    public FrameVector Vector(long slots) =>
        Machine.CreateVector(slots) ?? throw new InvalidOperationException("no vector");

    /// <summary>get_vaddr_frames into a new vector.</summary>
    public GupResult Get(ulong start, long count, out FrameVector vector, GupFlags flags = GupFlags.Write)
    {
        vector = Vector(Math.Max(count, 1));
        return Machine.GetVaddrFrames(Space, start, count, flags, vector).Result;
    }

    public PinOutcome Gup(
        GupCall call, ulong start, long count, GupFlags flags, out FrameVector vector,
        LockedArgument locked = LockedArgument.Null)
    {
        vector = Vector(Math.Max(count, 1));
        return Machine.Gup(Space, call, start, count, flags, locked, vector);
    }

    /// <summary>Puts and destroys.</summary>
    public void Drop(params FrameVector[] vectors)
    {
        foreach (var vector in vectors)
        {
            Machine.PutVaddrFrames(vector);
            if (!Machine.DestroyVector(vector)) throw new InvalidOperationException("vector not destroyed");
        }
    }

    public PageView View(FrameVector vector, long slot = 0) => Machine.ViewPages(vector, slot, 1)[0];

    public PageView ViewAt(ulong address, AddressSpace? space = null) =>
        Machine.ViewPage(
            Machine.Translate(space ?? Space, address) ?? throw new InvalidOperationException("not mapped"));

    public AddressSpace Fork(string name = "child") =>
        Machine.Fork(Space, name, out var error) ?? throw new InvalidOperationException($"fork: {error}");

    public string MapsText() => string.Join('\n', Machine.Maps(Space).Select(entry => entry.ToMapsLine()));

    private static void Must(SyscallResult result)
    {
        if (!result.IsOk) throw new InvalidOperationException($"mmap: {result}");
    }
}

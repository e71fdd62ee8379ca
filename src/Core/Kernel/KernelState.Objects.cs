using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Kernel;

/// <summary>The objects of the machine by number, as commands name them.</summary>
internal sealed partial class KernelState
{
    private readonly Dictionary<DeviceId, Device> _devices = [];
    private readonly Dictionary<UffdId, Userfaultfd> _userfaultfds = [];
    private readonly Dictionary<Type, object> _parts = [];

    /// <summary>
    /// Address spaces by number. An entry that is out of use, and entry 0, hold the one space that counts as exited, so
    /// that a call on a number that is gone fails as a call on an exited process does. Eight bytes stay for each space
    /// that ever was. The turn guards changes; pins read the array without a turn.
    /// </summary>
    private AddressSpace[] _spaces;

    private int _nextSpace;
    private int _nextDevice;
    private int _nextUffd;

    /// <summary>Next free PFN of MMIO. The turn guards it.</summary>
    private ulong _nextMmio;

    /// <summary>
    /// Told about each fork, parent and child, under the turn: by rooms to the right whose objects are inherited.
    /// </summary>
    public List<Action<AddressSpace, AddressSpace>> Forked { get; } = [];

    /// <summary>
    /// The state of room Pinning, which lies to the right: only that room knows its type. Set once, by the machine.
    /// </summary>
    public object? Pins { get; set; }

    /// <summary>
    /// The machine runs a log. Then a command makes the vectors that it names, and nothing is drained but by the log.
    /// </summary>
    public bool IsReplay { get; set; }

    /// <summary>Commands run so far. The turn guards changes; inside the gate it is stable.</summary>
    public long CommandNumber { get; set; }

    /// <summary>The address space with a number; the exited one when there is none. Needs no turn.</summary>
    public AddressSpace Space(SpaceId id)
    {
        var spaces = Volatile.Read(ref _spaces);
        return (uint)id.Value < (uint)spaces.Length ? spaces[id.Value] : spaces[0];
    }

    public MemoryFile? File(FileId id) => Files.GetValueOrDefault(id.Value);

    public Device? Device(DeviceId id) => _devices.GetValueOrDefault(id);

    public Userfaultfd? Userfaultfd(UffdId id) => _userfaultfds.GetValueOrDefault(id);

    /// <summary>
    /// The state of a room that lies to the right of this one, made when first asked for: one object of each type.
    /// </summary>
    public T Part<T>()
        where T : class, new()
    {
        lock (_parts)
        {
            if (!_parts.TryGetValue(typeof(T), out var part)) _parts[typeof(T)] = part = new T();
            return (T)part;
        }
    }

    /// <summary>A new address space without areas; null when no page table is left.</summary>
    public AddressSpace? AddSpace(string name, AddressSpaceLayout layout, TaskState task)
    {
        if (PageTable.Create(Tables, PageTableLevels) is not { } table) return null;
        var space = new AddressSpace(new SpaceId(++_nextSpace), name, table, layout, task);
        if (_nextSpace >= _spaces.Length)
        {
            var grown = new AddressSpace[_spaces.Length * 2];
            Array.Fill(grown, _spaces[0]);
            _spaces.CopyTo(grown, 0);
            Volatile.Write(ref _spaces, grown);
        }

        _spaces[_nextSpace] = space;
        Spaces.Add(space);
        return space;
    }

    /// <summary>The address space has exited: its number and those of its userfaultfds mean nothing any more.</summary>
    public void RemoveSpace(AddressSpace space)
    {
        space.Exited = true;
        Spaces.Remove(space);
        _spaces[space.Id.Value] = _spaces[0];
        foreach (var (id, fd) in _userfaultfds)
        {
            if (fd.Space != space) continue;
            Served.Serve(fd, isServed: false);
            _userfaultfds.Remove(id);
        }
    }

    public Userfaultfd AddUserfaultfd(AddressSpace space)
    {
        var fd = new Userfaultfd(new UffdId(++_nextUffd), space);
        _userfaultfds.Add(fd.Id, fd);
        return fd;
    }

    public void RemoveUserfaultfd(Userfaultfd fd) => _userfaultfds.Remove(fd.Id);

    /// <summary>PFNs of MMIO for a device, on a boundary of 2 MiB and with a gap of 2 MiB behind them.</summary>
    public Pfn TakeMmio(ulong frames)
    {
        var start = new Pfn(_nextMmio);
        _nextMmio += PageGeometry.AlignUp(frames, 1UL << PageGeometry.PmdOrder) + (1UL << PageGeometry.PmdOrder);
        return start;
    }

    /// <summary>Gives a device its number.</summary>
    public Device AddDevice(Func<DeviceId, Device> make)
    {
        var device = make(new DeviceId(++_nextDevice));
        _devices.Add(device.Id, device);
        Devices.Add(device);
        return device;
    }
}

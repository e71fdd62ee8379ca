using System.Diagnostics;
using System.Runtime.CompilerServices;
using FramePin.Core.Addressing;
using FramePin.Core.Native;

namespace FramePin.Core.Frames;

/// <summary>Where an allocation may come from.</summary>
public enum AllocationContext
{
    /// <summary>User pages (GFP_HIGHUSER_MOVABLE): ZONE_MOVABLE first, then the rest.</summary>
    Movable,
    /// <summary>Pages that must not sit in ZONE_MOVABLE: kernel and device memory, faults of a long-term pin.</summary>
    Unmovable,
}

/// <summary>
/// A machine's memory: bytes, frame records, zones, the shared zero page, and the life of folios from allocation to the
/// last reference.
/// </summary>
/// <remarks>
/// Guarded by the turn, but for the counts (see <see cref="CountGate"/>) and <see cref="QueueFree"/>. Frames are zeroed
/// when they are given out, and only those that were used before and are not going to be overwritten.
/// </remarks>
internal sealed class PhysicalMemory : IDisposable
{
    /// <summary>Frames at the bottom that the firmware keeps (1 MiB), as on a PC.</summary>
    public const ulong ReservedFrames = 256;

    private const ulong NoPending = 0;

    /// <summary>
    /// Head of the list of frames whose last reference went outside a turn; PFN 0 is reserved and so means none.
    /// </summary>
    private ulong _pending = NoPending;

    /// <summary>Creates a machine's memory.</summary>
    /// <param name="name">Name of the memfd, for people who look at the host.</param>
    /// <param name="frames">Frames of RAM, at least 1024.</param>
    /// <param name="movableFrames">Frames of ZONE_MOVABLE at the top.</param>
    public PhysicalMemory(string name, ulong frames, ulong movableFrames)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(frames, 1024UL);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(movableFrames, frames - 512);
        Frames = new FrameTable(frames);
        Bytes = new PhysicalBytes(name, frames);
        Quarantine = new Quarantine(frames);
        Gate = new CountGate();
        Statistics = new PinStatistics();
        MovableStart = frames - movableFrames;
        Normal = new Zone(ZoneKind.Normal, Frames, ReservedFrames, MovableStart);
        Movable = new Zone(ZoneKind.Movable, Frames, MovableStart, frames);
        for (var pfn = 0UL; pfn < ReservedFrames; pfn++)
        {
            Frames[new Pfn(pfn)].Flags = FrameFlags.Reserved;
            Frames.InitCount(new Pfn(pfn));
        }

        ZeroPage = new Pfn(ReservedFrames - 1);
        Frames[ZeroPage].Flags |= FrameFlags.Zero;
    }

    public FrameTable Frames { get; }

    public PhysicalBytes Bytes { get; }

    public CountGate Gate { get; }

    public PinStatistics Statistics { get; }

    /// <summary>The shared zero page: mapped by read faults, never counted by a PIN.</summary>
    public Pfn ZeroPage { get; }

    /// <summary>First PFN of ZONE_MOVABLE; equal to the number of frames when there is none.</summary>
    public ulong MovableStart { get; }

    /// <summary>Takes back a hugetlb page whose last reference is gone; set by the owner of the pools.</summary>
    public Action<Pfn>? HugeFreed { get; set; }

    /// <summary>Frames that outsiders may have mapped.</summary>
    public Quarantine Quarantine { get; }

    public Zone Normal { get; }

    public Zone Movable { get; }

    /// <summary>A folio in ZONE_MOVABLE may not be pinned long-term where it is (folio_is_longterm_pinnable).</summary>
    public bool IsLongTermPinnable(Pfn pfn) => pfn.Value < MovableStart;

    /// <summary>
    /// Allocates a folio with one reference, zeroed unless the caller overwrites all of it; null when memory is out.
    /// </summary>
    public Pfn? Allocate(int order, AllocationContext context, FrameFlags flags, bool isOverwritten = false)
    {
        var taken = context == AllocationContext.Movable
            ? Movable.Take(order) ?? Normal.Take(order)
            : Normal.Take(order);
        return taken is { } head ? Prepare(head, order, flags, isOverwritten) : null;
    }

    /// <summary>Allocates the free frame <paramref name="pfn"/> of <paramref name="zone"/>.</summary>
    public Pfn AllocateAt(Zone zone, Pfn pfn)
    {
        zone.TakeFrame(pfn.Value);
        return Prepare(pfn, 0, FrameFlags.None);
    }

    private Pfn Prepare(Pfn head, int order, FrameFlags flags, bool isOverwritten = false)
    {
        var size = 1UL << order;
        for (var i = 0UL; i < size; i++)
        {
            var pfn = head + i;
            var info = Frames[pfn];
            if (!isOverwritten && (info.Flags & FrameFlags.Touched) != 0) Bytes.Of(pfn).Clear();
            info.Clear();
            info.Order = (byte)order;
            info.Flags = FrameFlags.Touched
                | (i == 0 ? FrameFlags.Head | flags : FrameFlags.Tail | (flags & FrameFlags.HugeTlb));
        }

        Frames.InitCount(head);
        return head;
    }

    /// <summary>
    /// Drops <paramref name="count"/> plain references of the folio of <paramref name="pfn"/>; the last one frees it.
    /// </summary>
    public void Put(Pfn pfn, int count = 1) => DropCounts(Frames.HeadOf(pfn), count);

    /// <summary>
    /// Takes <paramref name="delta"/> off a folio's count word and frees it when the refcount reaches zero. Under the
    /// turn.
    /// </summary>
    public void DropCounts(Pfn head, long delta)
    {
        ref var word = ref Frames.Counts[head.Value];
        word -= delta;
        var references = (int)word;
        Debug.Assert(references >= 0, $"{head}: refcount {references} below zero");
        if (references == 0) FreeNow(head);
    }

    /// <summary>
    /// Notes a folio whose refcount fell to zero outside a turn. Inside the gate; a second call for a folio does
    /// nothing. It takes no lock. The next turn frees the folio.
    /// </summary>
    public void QueueFree(Pfn head)
    {
        // Nobody else can reach the frame: its count is zero, so no grab succeeds, and no page table maps it.
        var info = Frames[head];
        var flags = (FrameFlags)Interlocked.Or(
            ref Unsafe.As<FrameFlags, uint>(ref info.Flags), (uint)FrameFlags.PendingFree);
        if ((flags & FrameFlags.PendingFree) != 0) return;
        ulong seen;
        do
        {
            seen = Volatile.Read(ref _pending);
            info.Index = seen;
        }
        while (Interlocked.CompareExchange(ref _pending, head.Value, seen) != seen);
    }

    /// <summary>Folios wait to be freed. Exact under the turn.</summary>
    public bool HasPending => Volatile.Read(ref _pending) != NoPending;

    /// <summary>
    /// Frees what unpins left behind, lowest PFN first so that their order does not show. At the start of a turn.
    /// </summary>
    public void DrainPending()
    {
        if (_pending == NoPending) return;
        var heads = new List<ulong>();
        for (var pfn = _pending; pfn != NoPending; pfn = Frames[new Pfn(pfn)].Index) heads.Add(pfn);
        _pending = NoPending;
        heads.Sort();
        foreach (var head in heads) FreeNow(new Pfn(head));
    }

    /// <summary>Marks a folio dirty (folio_mark_dirty): a no-op for one that left its file.</summary>
    public void MarkDirty(Pfn pfn)
    {
        var info = Frames[Frames.HeadOf(pfn)];
        info.Flags = (info.Flags | FrameFlags.Dirty) & ~FrameFlags.Reclaim;
    }

    public void Dispose()
    {
        Quarantine.Dispose();
        Bytes.Dispose();
        Frames.Dispose();
    }

    private void FreeNow(Pfn head)
    {
        var info = Frames[head];
        if ((info.Flags & FrameFlags.Reserved) != 0) return;
        if ((info.Flags & FrameFlags.HugeTlb) != 0)
        {
            if (!Quarantine.Catches(head, info.Order)) HugeFreed?.Invoke(head);
            return;
        }

        Debug.Assert((info.Flags & FrameFlags.InCache) == 0, $"{head} freed while a file holds it");
        Debug.Assert(info.MapCount == 0, $"{head} freed while mapped");
        var order = (info.Flags & FrameFlags.Head) == 0 ? 0 : (int)info.Order;
        var poisoned = (info.Flags & FrameFlags.HwPoison) != 0;
        var size = 1UL << order;
        var isKept = !poisoned && Quarantine.Catches(head, order);
        // Somebody may store to it still: it is zeroed when it is given out.
        var punched = order >= PageGeometry.PmdOrder && !isKept;
        if (punched) Bytes.Punch(head, size);
        for (var i = 0UL; i < size; i++)
        {
            var frame = Frames[head + i];
            frame.Clear();
            frame.Flags = punched ? FrameFlags.None : FrameFlags.Touched;
        }

        Frames.ClearCount(head);
        if (poisoned)
        {
            // A poisoned frame never comes back (mm/memory-failure.c): it stays out of the free lists.
            info.Flags = FrameFlags.HwPoison | FrameFlags.Reserved;
            return;
        }

        if (!isKept) ZoneOf(head).Give(head, order);
    }

    /// <summary>
    /// Somebody outside has given up what it held of these frames: what was free already goes to the allocator.
    /// </summary>
    public void Unhold(Pfn first, ulong count)
    {
        foreach (var (head, order) in Quarantine.Release(first, count))
        {
            if ((Frames[head].Flags & FrameFlags.HugeTlb) != 0) HugeFreed?.Invoke(head);
            else ZoneOf(head).Give(head, order);
        }
    }

    private Zone ZoneOf(Pfn pfn) => pfn.Value >= MovableStart ? Movable : Normal;
}

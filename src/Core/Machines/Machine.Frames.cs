using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Frames;
using FramePin.Core.PageTables;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;

namespace FramePin.Core.Machines;

/// <summary>Frames that a process outside may have mapped. A handle outside Core.</summary>
public sealed class FrameHold
{
    internal FrameHold(IReadOnlyList<FrameRun> runs) => Runs = runs;

    internal FrameHold(FrameVector vector)
    {
        Runs = [];
        Vector = vector;
        NextOfVector = vector.FirstHold;
        vector.FirstHold = this;
    }

    /// <summary>
    /// The frames in order, as runs of consecutive PFNs; empty while a vector's references keep them.
    /// </summary>
    public IReadOnlyList<FrameRun> Runs { get; internal set; }

    /// <summary>Guarded by the turn, as all that follows.</summary>
    internal bool IsReleased { get; set; }

    /// <summary>
    /// Its references keep the frames from becoming free, and the hold has nothing to do before they go.
    /// </summary>
    internal FrameVector? Vector { get; set; }

    internal FrameHold? NextOfVector { get; set; }
}

/// <summary>A struct page as somebody outside sees it.</summary>
/// <param name="Pfn">The frame.</param>
/// <param name="HasPage">False for MMIO, and then everything behind is empty.</param>
/// <param name="Head">First frame of its folio.</param>
/// <param name="Order">log2 of the folio's frames.</param>
/// <param name="RefCount">References of the folio.</param>
/// <param name="PinCount">Pins counted apart, large folios only.</param>
/// <param name="MapCount">Entries that map the folio.</param>
/// <param name="Flags">State of the folio.</param>
/// <param name="MaybeDmaPinned">folio_maybe_dma_pinned.</param>
public readonly record struct PageView(
    Pfn Pfn, bool HasPage, Pfn Head, int Order, int RefCount, int PinCount, int MapCount, FrameFlags Flags,
    bool MaybeDmaPinned);

/// <summary>Looks at frames, and bytes as a device sees them.</summary>
public sealed partial class Machine
{
    /// <summary>
    /// What writing to /proc/sys/vm/compact_memory does: movable pages go from the bottom of their zone to its top.
    /// Pinned and otherwise referenced ones stay.
    /// </summary>
    /// <returns>Pages moved.</returns>
    public long Compact()
    {
        using var turn = EnterTurn();
        return Compaction.Run(_kernel);
    }

    /// <summary>The struct page of a frame.</summary>
    public PageView ViewPage(Pfn pfn)
    {
        using var turn = EnterQuery();
        return View(pfn);
    }

    /// <summary>
    /// The struct pages of a vector's frames from slot <paramref name="from"/> on, at most <paramref name="most"/>.
    /// </summary>
    public IReadOnlyList<PageView> ViewPages(FrameVector vector, long from, int most)
    {
        using var turn = EnterQuery();
        var pages = new List<PageView>();
        var slot = 0L;
        foreach (var run in vector.Runs)
        {
            for (var i = 0UL; i < run.Count; i++, slot++)
            {
                if (slot < from) continue;
                if (pages.Count == most) return pages;
                pages.Add(View(run.First + i));
            }
        }

        return pages;
    }

    /// <summary>
    /// A descriptor of the machine's whole memory, for a process on the host: the frame with a PFN lies at PFN times
    /// 4096. Its size is sealed; one that is read-only cannot be mapped writable, nor opened anew by another user. The
    /// caller owns it.
    /// </summary>
    public Microsoft.Win32.SafeHandles.SafeFileHandle OpenMemory(bool isReadOnly)
    {
        using var turn = EnterQuery();
        return _kernel.Memory.Bytes.Open(isReadOnly);
    }

    /// <summary>
    /// A process outside is about to map a vector's frames: those that become free from now on are kept from the
    /// allocator until <see cref="ReleaseHold"/>. Changes no count that the emulated kernel knows.
    /// </summary>
    public FrameHold HoldFrames(FrameVector vector)
    {
        using var turn = EnterTurn();
        if (vector.GotRef) return new FrameHold(vector);
        var hold = new FrameHold(RamOf(vector));
        Quarantine(hold);
        return hold;
    }

    /// <summary>
    /// A vector is about to let go of its frames: what is held of them is kept by the holds from now on.
    /// </summary>
    private void HandToHolds(FrameVector vector)
    {
        if (vector.FirstHold is null) return;
        using var turn = EnterTurn();
        while (vector.FirstHold is { } hold)
        {
            vector.FirstHold = hold.NextOfVector;
            (hold.Vector, hold.NextOfVector) = (null, null);
            hold.Runs = RamOf(vector);
            Quarantine(hold);
        }
    }

    private FrameRun[] RamOf(FrameVector vector) =>
        vector.Runs.ToArray().Where(run => _kernel.Memory.Frames.IsValid(run.First)).ToArray();

    private void Quarantine(FrameHold hold)
    {
        foreach (var run in hold.Runs) _kernel.Memory.Quarantine.Hold(run.First, run.Count);
    }

    /// <summary>
    /// The same for the pages of an address space: each is touched first, by a store where <paramref name="isWrite"/>,
    /// which makes the page the space's own, and then held as it is mapped now. A mapping that changes later leaves the
    /// hold with the old frames.
    /// </summary>
    /// <param name="space">Whose pages.</param>
    /// <param name="start">Address in bytes, page-aligned.</param>
    /// <param name="pages">At least one.</param>
    /// <param name="isWrite">The process is going to store.</param>
    /// <param name="signal">What the touch of the page at <paramref name="failedAt"/> ended in, or none; SigBus for a
    /// page that is no RAM.</param>
    /// <param name="failedAt">Address of that page.</param>
    public FrameHold? HoldRange(
        AddressSpace space, ulong start, long pages, bool isWrite, out UserSignal signal, out ulong failedAt)
    {
        using var turn = EnterTurn();
        var runs = new List<FrameRun>();
        signal = space.Exited ? UserSignal.SigSegvMapErr : UserSignal.None;
        failedAt = start;
        for (var i = 0L; i < pages && signal == UserSignal.None; i++)
        {
            failedAt = start + ((ulong)i << PageGeometry.PageShift);
            signal = UserAccess.Touch(_kernel, space, failedAt, isWrite, out var pfn);
            if (signal != UserSignal.None) break;
            if (!_kernel.Memory.Frames.IsValid(pfn)) signal = UserSignal.SigBus;
            else Append(runs, pfn);
        }

        if (signal != UserSignal.None) return null;
        var hold = new FrameHold(runs);
        Quarantine(hold);
        return hold;
    }

    private static void Append(List<FrameRun> runs, Pfn pfn)
    {
        if (runs.Count > 0 && runs[^1] is var last && last.First + last.Count == pfn && last.Count < FrameRun.MaxCount)
            runs[^1] = FrameRun.FromPacked(FrameRun.Pack(last.First.Value, last.Count + 1, isLarge: false));
        else runs.Add(FrameRun.FromPacked(FrameRun.Pack(pfn.Value, 1, isLarge: false)));
    }

    /// <summary>Free frames that are kept from the allocator and that these holds name, among others perhaps.</summary>
    public ulong QuarantinedBy(IReadOnlyCollection<FrameHold> holds)
    {
        using var turn = EnterQuery();
        var frames = 0UL;
        foreach (var hold in holds)
            foreach (var run in hold.Runs) frames += _kernel.Memory.Quarantine.WaitingIn(run.First, run.Count);
        return frames;
    }

    /// <summary>
    /// Has <paramref name="exceeded"/> called, on a thread of the pool and while nobody holds the turn, whenever a
    /// command leaves more than <paramref name="frames"/> free frames kept from the allocator.
    /// </summary>
    public void WatchQuarantine(ulong frames, Action exceeded)
    {
        using var turn = EnterQuery();
        _quarantineBound = frames;
        _quarantineExceeded = exceeded;
    }

    /// <summary>The process has unmapped them, or is dead. The second call for a hold does nothing.</summary>
    public void ReleaseHold(FrameHold hold)
    {
        using var turn = EnterTurn();
        if (hold.IsReleased) return;
        hold.IsReleased = true;
        if (hold.Vector is { } vector) Unlink(vector, hold);
        else foreach (var run in hold.Runs) _kernel.Memory.Unhold(run.First, run.Count);
    }

    private static void Unlink(FrameVector vector, FrameHold hold)
    {
        if (vector.FirstHold == hold) vector.FirstHold = hold.NextOfVector;
        for (var other = vector.FirstHold; other is not null; other = other.NextOfVector)
            if (other.NextOfVector == hold) other.NextOfVector = hold.NextOfVector;
        (hold.Vector, hold.NextOfVector) = (null, null);
    }

    /// <summary>The frame mapped at an address, without faulting; null when there is none.</summary>
    public Pfn? Translate(AddressSpace space, ulong address)
    {
        using var turn = EnterQuery();
        if (space.Exited) return null;
        var slot = space.PageTable.Find(address);
        if (!slot.Exists || !Pte.IsMapped(space.PageTable[slot])) return null;
        return Pte.PfnOf(space.PageTable[slot]) + ((address >> PageGeometry.PageShift) & ((1UL << slot.Order) - 1));
    }

    /// <summary>
    /// A frame's bytes as /proc/PID/mem would show them, 4096 into <paramref name="page"/>; false for memory that
    /// nobody may look at (secret, broken, MMIO).
    /// </summary>
    public bool PeekFrame(Pfn pfn, Span<byte> page)
    {
        using var turn = EnterQuery();
        if (!_kernel.Memory.Frames.IsValid(pfn)) return false;
        var flags = _kernel.Memory.Frames[_kernel.Memory.Frames.HeadOf(pfn)].Flags;
        if ((flags & (FrameFlags.Secret | FrameFlags.HwPoison)) != 0) return false;
        _kernel.Memory.Bytes.Of(pfn).CopyTo(page);
        return true;
    }

    /// <summary>
    /// Copies bytes of a vector's frames as a device would by DMA, from byte <paramref name="offset"/> of the first
    /// frame on. Needs no turn: the caller's references keep the frames. -ENXIO for MMIO without memory behind it.
    /// </summary>
    public int CopyFrames(FrameVector vector, ulong offset, Span<byte> buffer, bool isWrite, out Errno error)
    {
        ObjectDisposedException.ThrowIf(!_kernel.TryUse(), this);
        try
        {
            return CopyHeld(vector, offset, buffer, isWrite, out error);
        }
        finally
        {
            _kernel.LeaveUse();
        }
    }

    private int CopyHeld(FrameVector vector, ulong offset, Span<byte> buffer, bool isWrite, out Errno error)
    {
        error = Errno.None;
        var done = 0;
        var first = 0UL;
        foreach (var run in vector.Runs)
        {
            var runBytes = run.Count << PageGeometry.PageShift;
            while (done < buffer.Length && offset + (ulong)done < first + runBytes && offset + (ulong)done >= first)
            {
                var at = offset + (ulong)done - first;
                var pfn = run.First + (at >> PageGeometry.PageShift);
                if (!_kernel.Memory.Frames.IsValid(pfn))
                {
                    error = Errno.ENXIO;
                    return done;
                }

                var within = (int)(at & ~PageGeometry.PageMask);
                var part = buffer.Slice(done, Math.Min(buffer.Length - done, (int)PageGeometry.PageSize - within));
                var bytes = _kernel.Memory.Bytes.Of(pfn).Slice(within, part.Length);
                if (isWrite) part.CopyTo(bytes);
                else bytes.CopyTo(part);
                done += part.Length;
            }

            first += runBytes;
        }

        return done;
    }

    /// <summary>
    /// True when a PFN that a vector holds without reference was freed since: its bytes belong to somebody else now.
    /// </summary>
    public bool IsFreed(Pfn pfn)
    {
        using var turn = EnterQuery();
        return _kernel.Memory.Frames.IsValid(pfn)
            && _kernel.Memory.Frames.RefCount(_kernel.Memory.Frames.HeadOf(pfn)) == 0;
    }

    private PageView View(Pfn pfn)
    {
        var frames = _kernel.Memory.Frames;
        if (!frames.IsValid(pfn)) return new PageView(pfn, false, pfn, 0, 0, 0, 0, FrameFlags.None, false);
        var head = frames.HeadOf(pfn);
        var info = frames[head];
        return new PageView(
            pfn, true, head, frames.OrderOf(head), frames.RefCount(head), frames.PinCount(head), info.MapCount,
            info.Flags,
            frames.MaybeDmaPinned(head));
    }
}

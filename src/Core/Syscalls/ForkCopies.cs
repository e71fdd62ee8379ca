using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;

namespace FramePin.Core.Syscalls;

/// <summary>A run of frames that a fork copies.</summary>
/// <param name="From">First frame of the parent.</param>
/// <param name="To">First frame of the child.</param>
/// <param name="Frames">Frames.</param>
/// <param name="IsLarge">The run is one huge page.</param>
internal readonly record struct ForkCopy(Pfn From, Pfn To, ulong Frames, bool IsLarge);

/// <summary>
/// Pages whose bytes forks have still to copy. The child maps its pages already, and nobody can reach it. Each page has
/// a reference more on both sides meanwhile, as a fork has that is in the middle of copy_present_page: it is neither
/// freed nor moved.
/// </summary>
/// <remarks>Guarded by the turn. A stored byte and a copied one are in the order in which their commands ran.</remarks>
internal sealed class ForkCopies
{
    /// <summary>Most frames of a run of small pages, which keep their references until all of it is copied.</summary>
    private const ulong MaxRun = PageGeometry.EntriesPerTable;

    private readonly Dictionary<SpaceId, Work> _children = [];

    /// <summary>The runs of one child.</summary>
    private sealed class Work
    {
        public readonly List<ForkCopy> Runs = [];

        /// <summary>Index of the run at hand.</summary>
        public int Next;

        /// <summary>Frames of it that are copied.</summary>
        public ulong Copied;

        /// <summary>Frames that are left in all.</summary>
        public ulong Left;
    }

    /// <summary>Every run that is not copied to its end: for the audit.</summary>
    public IEnumerable<ForkCopy> Open => _children.Values.SelectMany(work => work.Runs.Skip(work.Next));

    /// <summary>The pages of a folio of 2^<paramref name="order"/> frames are to be copied.</summary>
    public void Add(KernelState kernel, SpaceId child, Pfn from, Pfn to, int order)
    {
        kernel.Memory.Frames.AddRefs(from, 1);
        kernel.Memory.Frames.AddRefs(to, 1);
        if (!_children.TryGetValue(child, out var work)) _children[child] = work = new Work();
        var frames = 1UL << order;
        work.Left += frames;
        if (order == 0 && work.Runs.Count > 0 && work.Runs[^1] is { IsLarge: false, Frames: < MaxRun } last
            && last.From + last.Frames == from && last.To + last.Frames == to)
            work.Runs[^1] = last with { Frames = last.Frames + 1 };
        else work.Runs.Add(new ForkCopy(from, to, frames, IsLarge: order > 0));
    }

    /// <summary>Copies at most so many frames, 0 for all. The frames left.</summary>
    public ulong Copy(KernelState kernel, SpaceId child, ulong most)
    {
        if (!_children.TryGetValue(child, out var work)) return 0;
        var budget = most == 0 ? ulong.MaxValue : most;
        while (budget > 0 && work.Next < work.Runs.Count)
        {
            var run = work.Runs[work.Next];
            var frames = Math.Min(Math.Min(budget, run.Frames - work.Copied), MaxRun);
            kernel.Memory.Bytes.Copy(run.From + work.Copied, run.To + work.Copied, frames);
            (budget, work.Copied, work.Left) = (budget - frames, work.Copied + frames, work.Left - frames);
            if (work.Copied < run.Frames) continue;
            Release(kernel, run);
            (work.Next, work.Copied) = (work.Next + 1, 0);
        }

        if (work.Left == 0) _children.Remove(child);
        return work.Left;
    }

    /// <summary>The child is gone: nothing is copied any more.</summary>
    public void Drop(KernelState kernel, SpaceId child)
    {
        if (!_children.Remove(child, out var work)) return;
        foreach (var run in work.Runs.Skip(work.Next)) Release(kernel, run);
    }

    private static void Release(KernelState kernel, ForkCopy run)
    {
        var folios = run.IsLarge ? 1 : run.Frames;
        for (var i = 0UL; i < folios; i++)
        {
            kernel.Memory.Put(run.From + i);
            kernel.Memory.Put(run.To + i);
        }
    }
}

/// <summary>
/// A fork goes on that was asked to copy few pages at once (<see cref="ForkCall.CopiesAtOnce"/>): the bytes of pages
/// that the parent has pinned (mm/memory.c: copy_present_page; mm/hugetlb.c: copy_hugetlb_page_range).
/// </summary>
/// <param name="Child">The child, which nobody else may reach until nothing is left.</param>
/// <param name="Most">Most frames of 4 KiB to copy now; 0 for all.</param>
/// <returns>Frames left.</returns>
/// <remarks>
/// Between two of these commands others run, those of the parent too. What they store may reach the child or not, as
/// what another thread of the parent stores while Linux copies. The areas and entries of the child are those of the
/// fork's own command.
/// </remarks>
public readonly record struct CopyForkedCall(SpaceId Child, long Most) : ISyscall<CopyForkedCall>
{
    public SyscallResult Run(in Turn turn) => Most < 0
        ? Errno.EINVAL
        : SyscallResult.Ok(turn.Kernel.Part<ForkCopies>().Copy(turn.Kernel, Child, (ulong)Most));

    public void Write(CommandWriter writer) => writer.Add(Child).Add(Most);

    public static CopyForkedCall Read(ref CommandReader reader) => new(reader.Space(), reader.I64());
}

namespace FramePin.Core.Backing;

/// <summary>
/// What a private hugetlb mapping was promised: all its pages, but for those that it has taken (struct resv_map with
/// HPAGE_RESV_OWNER, whose entries say the opposite of a file's). The parts of a mapping that is split share it.
/// </summary>
/// <remarks>
/// Pages are huge ones, counted from the start of the file. Guarded by the turn. Source: mm/hugetlb.c.
/// </remarks>
internal sealed class HugeReservation(HugePool pool)
{
    private readonly HashSet<ulong> _taken = [];

    /// <summary>vma_needs_reservation, the other way round.</summary>
    public bool Promises(ulong page) => !_taken.Contains(page);

    /// <summary>vma_commit_reservation: the page was taken.</summary>
    public void Take(ulong page) => _taken.Add(page);

    /// <summary>
    /// vma_add_reservation: the page was unmapped, and is promised again. Its frame brings the promise back to the pool
    /// when it is freed.
    /// </summary>
    public void Restore(ulong page) => _taken.Remove(page);

    /// <summary>Pages of [<paramref name="first"/>, <paramref name="end"/>) that are promised and not taken.</summary>
    public long CountPromised(ulong first, ulong end)
    {
        var taken = 0L;
        foreach (var page in _taken)
            if (page >= first && page < end) taken++;
        return (long)(end - first) - taken;
    }

    /// <summary>hugetlb_vm_op_close: a part of the mapping goes, and its promises with it.</summary>
    public void Release(ulong first, ulong end) => pool.Reserved -= CountPromised(first, end);
}

namespace FramePin.Replay;

/// <summary>
/// Orders in which calls of several threads may have taken effect. A log tells when a call began and when it finished;
/// where those of two threads overlap, either may have been first.
/// </summary>
internal static class CallOrder
{
    /// <summary>Calls around a difference that are looked at.</summary>
    private const int Window = 32;

    /// <summary>Calls that decide where others find room.</summary>
    private static readonly HashSet<string> Placing = new(StringComparer.Ordinal)
    {
        "brk", "mmap", "mremap", "munmap", "shmat", "shmdt",
    };

    /// <summary>
    /// Orders that might explain why the call at <paramref name="different"/> answered otherwise than recorded, the
    /// nearest first: an overlapping call behind it goes before it, it goes before calls that it overlaps, or two
    /// earlier calls that overlap change places.
    /// </summary>
    public static IEnumerable<IReadOnlyList<StraceCall>> Alternatives(IReadOnlyList<StraceCall> calls, int different)
    {
        var call = calls[different];
        var end = Math.Min(calls.Count, different + Window);
        for (var later = different + 1; later < end; later++)
            if (calls[later].Begun < call.Line && MayMatter(calls[later], call))
                yield return Moved(calls, later, different);
        for (var earlier = different - 1; earlier >= Math.Max(0, different - Window)
            && call.Begun < calls[earlier].Line; earlier--)
            if (MayMatter(calls[earlier], call)) yield return Moved(calls, different, earlier);
        for (var later = different; later > Math.Max(0, different - Window); later--)
            for (var earlier = later - 1; earlier >= Math.Max(0, later - Window); earlier--)
            {
                if (calls[earlier].Thread == calls[later].Thread) break;
                if (calls[later].Begun < calls[earlier].Line && later != different
                    && MayMatter(calls[later], calls[earlier]))
                    yield return Moved(calls, later, earlier);
            }
    }

    private static bool MayMatter(StraceCall one, StraceCall other) =>
        one.Thread != other.Thread && Placing.Contains(one.Name) && Placing.Contains(other.Name) && !one.IsUnfinished
            && !other.IsUnfinished;

    private static List<StraceCall> Moved(IReadOnlyList<StraceCall> calls, int from, int to)
    {
        var result = calls.ToList();
        result.RemoveAt(from);
        result.Insert(to, calls[from]);
        return result;
    }
}

using System.Globalization;
using FramePin.Server.Configuration;

namespace FramePin.Server.Mapping;

/// <summary>
/// Cuts a list into pages: the entries behind a token, as many as a page holds, and the token of the next page.
/// </summary>
internal static class Paging
{
    /// <summary>A page of what is ordered by a number that grows, such as the order in which it was made.</summary>
    /// <param name="all">All entries, ordered by <paramref name="key"/>.</param>
    /// <param name="key">Not the same for two entries.</param>
    /// <param name="size">page_size of the request; 0 for the default.</param>
    /// <param name="token">page_token of the request; empty for the first page.</param>
    /// <param name="limits">How large a page may be.</param>
    public static (List<T> Page, string NextToken) ByNumber<T>(
        IEnumerable<T> all, Func<T, ulong> key, uint size, string token, DaemonLimits limits)
    {
        var isFirst = token.Length == 0;
        var after = 0UL;
        if (!isFirst && !ulong.TryParse(token, NumberStyles.None, CultureInfo.InvariantCulture, out after))
            throw Refusals.Bad("page_token", "is not one that this call has given out");
        return Cut(
            all.Where(entry => isFirst || key(entry) > after), size, limits,
            last => key(last).ToString(CultureInfo.InvariantCulture));
    }

    /// <summary>A page of what is ordered by name, in the order of the characters' numbers.</summary>
    public static (List<T> Page, string NextToken) ByName<T>(
        IEnumerable<T> all, Func<T, string> key, uint size, string token, DaemonLimits limits) =>
        Cut(all.Where(entry => string.CompareOrdinal(key(entry), token) > 0), size, limits, key);

    private static (List<T> Page, string NextToken) Cut<T>(
        IEnumerable<T> rest, uint size, DaemonLimits limits, Func<T, string> tokenOf)
    {
        if (size > limits.PageSizeMax) throw Refusals.Limit("page_size_max", limits.PageSizeMax, size);
        var most = size == 0 ? limits.PageSizeDefault : size;
        // One more than a page, so that the last page is known to be it.
        var found = rest.Take((int)most + 1).ToList();
        if (found.Count <= most) return (found, "");
        found.RemoveAt(found.Count - 1);
        return (found, tokenOf(found[^1]));
    }
}

using System.Globalization;
using FramePin.Server.Configuration;

namespace FramePin.Server.Mapping;

/// <summary>The page that a List call asks for.</summary>
/// <param name="List">Name of what is listed: "machines", or a machine's name and a collection.</param>
/// <param name="Size">page_size of the request; 0 for the default.</param>
/// <param name="Token">page_token of the request; empty for the first page.</param>
internal readonly record struct PageRequest(string List, uint Size, string Token);

/// <summary>
/// Cuts a list into pages: the entries behind a token, as many as a page holds, and the token of the next page.
/// </summary>
/// <remarks>
/// A token is the list's name, a colon and the key of the page's last entry. A token of another list is refused, since
/// its key would skip entries without a word. The entry itself may be gone by then.
/// </remarks>
internal static class Paging
{
    /// <summary>A page of what is ordered by a number that grows, such as the order in which it was made.</summary>
    /// <param name="all">All entries, ordered by <paramref name="key"/>.</param>
    /// <param name="key">Not the same for two entries.</param>
    /// <param name="request">Which page.</param>
    /// <param name="limits">How large a page may be.</param>
    public static (List<T> Page, string NextToken) ByNumber<T>(
        IEnumerable<T> all, Func<T, ulong> key, PageRequest request, DaemonLimits limits)
    {
        var after = 0UL;
        if (KeyIn(request) is { } text
            && !ulong.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out after))
            throw Foreign();
        var isFirst = request.Token.Length == 0;
        return Cut(
            all.Where(entry => isFirst || key(entry) > after), request, limits,
            last => key(last).ToString(CultureInfo.InvariantCulture));
    }

    /// <summary>A page of what is ordered by name, in the order of the characters' numbers.</summary>
    public static (List<T> Page, string NextToken) ByName<T>(
        IEnumerable<T> all, Func<T, string> key, PageRequest request, DaemonLimits limits)
    {
        var after = KeyIn(request);
        return Cut(all.Where(entry => string.CompareOrdinal(key(entry), after) > 0), request, limits, key);
    }

    /// <summary>The key in the request's token; null for the first page.</summary>
    private static string? KeyIn(PageRequest request)
    {
        if (request.Token.Length == 0) return null;
        var start = request.List.Length + 1;
        return request.Token.Length > start && request.Token[start - 1] == ':'
            && request.Token.StartsWith(request.List, StringComparison.Ordinal)
            ? request.Token[start..]
            : throw Foreign();
    }

    private static Grpc.Core.RpcException Foreign() =>
        Refusals.Bad("page_token", "is not one that this call has given out for this parent");

    private static (List<T> Page, string NextToken) Cut<T>(
        IEnumerable<T> rest, PageRequest request, DaemonLimits limits, Func<T, string> keyOf)
    {
        if (request.Size > limits.PageSizeMax)
            throw Refusals.Limit("page_size_max", limits.PageSizeMax, request.Size);
        var most = request.Size == 0 ? limits.PageSizeDefault : request.Size;
        // One more than a page, so that the last page is known to be it.
        var found = rest.Take((int)most + 1).ToList();
        if (found.Count <= most) return (found, "");
        found.RemoveAt(found.Count - 1);
        return (found, $"{request.List}:{keyOf(found[^1])}");
    }
}

using System.Globalization;
using System.Text;

namespace FramePin.Cli;

/// <summary>Daemons as users name them.</summary>
internal static class Endpoints
{
    /// <summary>Environment variable of the daemon, for commands without --endpoint.</summary>
    public const string Variable = "FRAMEPIN_ENDPOINT";

    /// <summary>Bytes of a socket's path, without its end (struct sockaddr_un).</summary>
    private const int LongestPath = 107;

    private const string Unix = "unix:";
    private const string Wanted = "write HOST:PORT, http://HOST:PORT, https://HOST:PORT, unix:/path or /path";

    /// <summary>An endpoint in the library's form. Throws <see cref="FormatException"/> for what names none.</summary>
    public static string Parse(string text)
    {
        if (text.Length == 0) throw new FormatException($"the endpoint is empty: {Wanted}");
        if (text[0] is '/' or '.') return Socket(text, text);
        if (text.StartsWith(Unix, StringComparison.Ordinal)) return Socket(text, text[Unix.Length..]);
        if (text.Contains("://", StringComparison.Ordinal)) return Checked(text, text);
        var colon = text.LastIndexOf(':');
        if (colon <= 0 || !ushort.TryParse(text.AsSpan(colon + 1), NumberStyles.None, CultureInfo.InvariantCulture,
            out var port) || port == 0)
            throw new FormatException($"'{text}' is no endpoint: {Wanted}");
        return Checked(text, $"http://{text}");
    }

    private static string Socket(string text, string path)
    {
        if (path.Length == 0) throw new FormatException($"'{text}' names no socket: {Wanted}");
        var length = Encoding.UTF8.GetByteCount(path);
        return length <= LongestPath && !path.Contains('\0', StringComparison.Ordinal)
            ? Unix + path
            : throw new FormatException(
                $"'{text}': the path of a socket has at most {LongestPath} bytes, this one has {length}");
    }

    private static string Checked(string text, string url) =>
        Uri.TryCreate(url, UriKind.Absolute, out var uri) && uri.Scheme is "http" or "https" && uri.Host.Length > 0
        && uri.Port > 0 && uri.UserInfo.Length == 0 && uri.PathAndQuery is "/" or "" && uri.Fragment.Length == 0
            ? url
            : throw new FormatException($"'{text}' is no endpoint: {Wanted}");
}

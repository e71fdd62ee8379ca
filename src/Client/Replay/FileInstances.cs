using System.Globalization;

namespace FramePin.Replay;

/// <summary>
/// Tells memory files of one name apart. strace -y shows the name alone, and each memfd_create makes a file of its own:
/// the number of the descriptor says which. The second file of a name and those after it get a mark behind the path,
/// a line break and a number, which no path of strace has.
/// </summary>
/// <remarks>
/// A descriptor is followed through memfd_create, dup and fcntl(F_DUPFD). One that came another way, such as through a
/// socket, is taken for the newest file of its name.
/// </remarks>
internal static class FileInstances
{
    private const string Prefix = "/memfd:";

    /// <summary>The calls with marked paths.</summary>
    public static IReadOnlyList<StraceCall> Mark(IReadOnlyList<StraceCall> calls)
    {
        var made = new Dictionary<string, int>(StringComparer.Ordinal);
        var behind = new Dictionary<string, int>(StringComparer.Ordinal);
        return [.. calls.Select(MarkOne)];

        StraceCall MarkOne(StraceCall call)
        {
            if (call.Errno.Length > 0 || call.IsUnfinished)
                return call with { Arguments = [.. call.Arguments.Select(MarkArgument)] };
            if (call.Name == "memfd_create" && Recording.PathOf(call.Result) is { Length: > 0 } path)
            {
                made[path] = made.GetValueOrDefault(path) + 1;
                behind[call.Result] = made[path];
            }
            else if (call.Name is "dup" or "dup2" or "dup3" or "fcntl" && call.Arguments.Count > 0
                && Recording.PathOf(call.Result).Length > 0)
            {
                behind[call.Result] = InstanceOf(call.Arguments[0]);
            }

            return call with { Arguments = [.. call.Arguments.Select(MarkArgument)] };
        }

        int InstanceOf(string descriptor) =>
            behind.TryGetValue(descriptor, out var known)
                ? known
                : made.GetValueOrDefault(Recording.PathOf(descriptor));

        string MarkArgument(string argument)
        {
            if (!argument.Contains(Prefix, StringComparison.Ordinal)) return argument;
            var path = Recording.PathOf(argument);
            if (!path.StartsWith(Prefix, StringComparison.Ordinal) || InstanceOf(argument) is not (var number and > 1))
                return argument;
            return argument.Replace(
                path, string.Create(CultureInfo.InvariantCulture, $"{path}\n{number}"), StringComparison.Ordinal);
        }
    }

    /// <summary>An argument as the log has it.</summary>
    public static string Unmarked(string argument)
    {
        var from = argument.IndexOf('\n', StringComparison.Ordinal);
        if (from < 0) return argument;
        var to = argument.IndexOf('>', from);
        return to < 0 ? argument : argument.Remove(from, to - from);
    }

    /// <summary>The path that maps shows for a key of a file.</summary>
    public static string PathOfKey(string key) => key.Split('\n')[0];
}

namespace FramePin.Replay;

/// <summary>
/// The arguments that a replay reads of each call. A call whose arguments are of another shape is not understood: it is
/// passed over and named, so that no line of a log ends a replay.
/// </summary>
internal static class CallShapes
{
    /// <summary>N: a number. F: flags. D: a descriptor. T: any text. Small letters may be missing.</summary>
    private static readonly Dictionary<string, string> Shapes = new(StringComparer.Ordinal)
    {
        ["brk"] = "N",
        ["fallocate"] = "DTNN",
        ["fcntl"] = "DT",
        ["ftruncate"] = "DN",
        ["madvise"] = "NNF",
        ["mlock"] = "NN",
        ["mlock2"] = "NNF",
        ["mlockall"] = "F",
        ["mmap"] = "NNFFDN",
        ["mprotect"] = "NNF",
        ["mremap"] = "NNNFn",
        ["mseal"] = "NNN",
        ["msync"] = "NNF",
        ["munlock"] = "NN",
        ["munmap"] = "NN",
        ["shmat"] = "TNT",
        ["shmctl"] = "TT",
        ["shmdt"] = "N",
        ["shmget"] = "TNT",
        ["truncate"] = "TN",
    };

    /// <summary>Why a call is not understood; null for one that is, or that a replay reads nothing of.</summary>
    public static string? Problem(StraceCall call)
    {
        // A descriptor is followed by its path: 9</path>.
        var result = call.Result.Split(' ', '<')[0];
        var isNumber = result.StartsWith('?') || StraceNumbers.TryParse(result, out _);
        if (call.Name is "clone" or "clone3" or "fork" or "vfork")
            return isNumber ? null : $"'{result}' is no number of a process";
        if (!Shapes.TryGetValue(call.Name, out var shape)) return null;
        if (!isNumber) return $"'{result}' is no answer";
        for (var i = 0; i < shape.Length; i++)
        {
            if (i < call.Arguments.Count)
            {
                if (Problem(shape[i], call.Arguments[i]) is { } problem) return problem;
            }
            else if (char.IsUpper(shape[i]))
            {
                return $"argument {i + 1} is missing";
            }
        }

        return call.Name == "mmap" ? ProblemOfFile(call) : null;
    }

    private static string? Problem(char kind, string text) => char.ToUpperInvariant(kind) switch
    {
        'N' when !StraceNumbers.TryParse(text, out _) => $"'{text}' is no number",
        'F' when !StraceNumbers.TryParseFlags(text, out _, out var unknown) => $"unknown flag '{unknown}'",
        _ => null,
    };

    /// <summary>A file that is mapped is known by its path alone.</summary>
    private static string? ProblemOfFile(StraceCall call)
    {
        const uint anonymous = 0x20;
        var isFile = (StraceNumbers.ParseFlags(call.Arguments[3]) & anonymous) == 0
            && !call.Arguments[4].StartsWith('-');
        return isFile && Recording.PathOf(call.Arguments[4]).Length == 0
            ? $"'{call.Arguments[4]}' names no path: strace -y does"
            : null;
    }
}

using System.Globalization;
using FramePin.V1;

namespace FramePin.Replay;

/// <summary>
/// Turns calls of a log into calls on the wire, and adds the stores that a log does not show: they decide which
/// mappings merge later.
/// </summary>
/// <remarks>
/// A program uses what it asks for, so one page of each private writable mapping is stored to, behind the calls with
/// which the thread goes on preparing the same range (advice, protection). Where the recording's smaps say that nothing
/// of it was ever touched, or its maps that areas met which had not been, none is.
/// </remarks>
internal sealed class CallTranslator(
    Recording recording, IReadOnlyDictionary<string, string> files, IReadOnlySet<ulong> untouched)
{
    private const uint MapPrivate = 2;
    private const uint MapTypeMask = 0xf;
    private const uint MapAnonymous = 0x20;
    private const uint ProtWrite = 2;

    private static readonly HashSet<string> Replayed = new(StringComparer.Ordinal)
    {
        "brk", "madvise", "mlock", "mlock2", "mlockall", "mmap", "mprotect", "mremap", "mseal", "msync", "munlock",
        "munlockall", "munmap", "shmat", "shmdt",
    };

    private readonly HashSet<string> _writable = recording.OpenedForWriting();
    private readonly Dictionary<int, ulong> _pending = [];
    private ulong _break = recording.StartBrk;

    /// <summary>Mappings that are stored to because a program uses what it asks for.</summary>
    public int TouchesAssumed { get; private set; }

    /// <summary>Where mappings lie that a program would store to, whether it is assumed to or not.</summary>
    public HashSet<ulong> Storable { get; } = [];

    /// <summary>Mappings that are not, because the recording says so.</summary>
    public int TouchesRuledOut { get; private set; }

    public static bool IsReplayed(string name) => Replayed.Contains(name);

    /// <summary>Stores one page of a mapping that was there at the start.</summary>
    public static MemoryCall Touch(ulong address) =>
        new() { Touch = new TouchCall { Address = address, Pages = 1, Write = true } };

    /// <summary>Stores that wait for their thread to go on: due when the log ends.</summary>
    public IEnumerable<MemoryCall> Rest()
    {
        foreach (var address in _pending.Values) yield return Touch(address);
        _pending.Clear();
    }

    /// <summary>
    /// A store that its thread has waited with, when the call is no further preparation of the range.
    /// </summary>
    public List<MemoryCall> Due(StraceCall call)
    {
        var due = new List<MemoryCall>();
        if (!_pending.TryGetValue(call.Thread, out var address) || Prepares(call, address)) return due;
        due.Add(Touch(address));
        _pending.Remove(call.Thread);
        return due;
    }

    /// <summary>
    /// The call itself, at <paramref name="index"/> of what is returned, among stores before and behind it.
    /// </summary>
    public List<MemoryCall> Translate(StraceCall call, out int index)
    {
        var calls = Due(call);
        index = calls.Count;
        calls.Add(Itself(call));
        if (call.Name == "brk")
        {
            var wanted = Number(call, 0);
            // The last page of the grown heap: malloc writes its top there.
            if (wanted > _break)
                calls.Add(
                    new MemoryCall
                    {
                        Touch = new TouchCall
                        {
                            Address = ulong.MaxValue,
                            Pages = 1,
                            Write = true,
                            FromPrevious = true
                        }
                    });
            if (wanted != 0) _break = wanted;
        }
        else if (call.Errno.Length == 0 && StoresTo(call) is { } store)
        {
            Storable.Add(store);
            if (!untouched.Contains(store) && recording.MayHaveBeenTouched(store, Number(call, 1)))
            {
                _pending[call.Thread] = store;
                TouchesAssumed++;
            }
            else
            {
                TouchesRuledOut++;
            }
        }

        return calls;
    }

    /// <summary>Advice or protection for the range that waits to be used.</summary>
    private static bool Prepares(StraceCall call, ulong address)
    {
        if (call.Name is not ("madvise" or "mprotect" or "mlock" or "munlock")) return false;
        var start = Number(call, 0);
        return address >= start && address < start + Math.Max(Number(call, 1), 1);
    }

    private static ulong? StoresTo(StraceCall call) => call.Name switch
    {
        "mmap" when (Flags(call, 2) & ProtWrite) != 0 && (Flags(call, 3) & MapTypeMask) == MapPrivate => call.Value,
        "mprotect" when (Flags(call, 2) & ProtWrite) != 0 => Number(call, 0),
        _ => null,
    };

    private MemoryCall Itself(StraceCall call) => call.Name switch
    {
        "brk" => new MemoryCall { Brk = new BrkCall { Address = Number(call, 0) } },
        "mmap" => Mmap(call),
        "munmap" => new MemoryCall { Munmap = new MunmapCall { Address = Number(call, 0), Length = Number(call, 1) } },
        "mprotect" =>
            new MemoryCall
            {
                Mprotect = new MprotectCall
                {
                    Address = Number(call, 0),
                    Length = Number(call, 1),
                    Prot = Flags(call, 2)
                }
            },
        "mremap" => new MemoryCall
        {
            Mremap = new MremapCall
            {
                Address = Number(call, 0),
                OldLength = Number(call, 1),
                NewLength = Number(call, 2),
                Flags = Flags(call, 3),
                NewAddress = call.Arguments.Count > 4 ? Number(call, 4) : 0,
            },
        },
        "madvise" =>
            new MemoryCall
            {
                Madvise = new MadviseCall
                {
                    Address = Number(call, 0),
                    Length = Number(call, 1),
                    Advice = (int)Flags(call, 2)
                }
            },
        "msync" =>
            new MemoryCall
            {
                Msync = new MsyncCall
                {
                    Address = Number(call, 0),
                    Length = Number(call, 1),
                    Flags = Flags(call, 2)
                }
            },
        "mlock" or "mlock2" => new MemoryCall
        {
            Mlock = new MlockCall
            {
                Address = Number(call, 0),
                Length = Number(call, 1),
                Flags = call.Arguments.Count > 2 ? Flags(call, 2) : 0
            },
        },
        "munlock" =>
            new MemoryCall { Munlock = new MunlockCall { Address = Number(call, 0), Length = Number(call, 1) } },
        "mlockall" => new MemoryCall { Mlockall = new MlockallCall { Flags = Flags(call, 0) } },
        "mseal" => new MemoryCall
        {
            Mseal = new MsealCall { Address = Number(call, 0), Length = Number(call, 1), Flags = Number(call, 2) },
        },
        _ => new MemoryCall { Munlockall = new MunlockallCall() },
    };

    private MemoryCall Mmap(StraceCall call)
    {
        var flags = Flags(call, 3);
        var path = (flags & MapAnonymous) != 0 ? "" : Recording.PathOf(call.Arguments[4]);
        return new MemoryCall
        {
            Mmap = new MmapCall
            {
                Address = Number(call, 0),
                Length = Number(call, 1),
                Prot = Flags(call, 2),
                Flags = flags,
                Target = path.Length == 0 ? "" : files[path],
                Offset = Number(call, 5),
                OpenMode = path.Length == 0 || path.StartsWith("/memfd:", StringComparison.Ordinal)
                    || _writable.Contains(path)
                    ? OpenMode.ReadWrite
                    : OpenMode.ReadOnly,
            },
        };
    }

    private static ulong Number(StraceCall call, int index) => StraceNumbers.Parse(call.Arguments[index]);

    private static uint Flags(StraceCall call, int index) => StraceNumbers.ParseFlags(call.Arguments[index]);
}

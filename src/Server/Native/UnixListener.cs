using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Text;

namespace FramePin.Server.Native;

/// <summary>
/// A listening Unix socket under a path. It takes the path of nobody: what is there stays, unless it is a socket that
/// no process listens on. At its end it removes its own file and no other. It holds that file until then, so that no
/// other file gets the number of its inode.
/// </summary>
/// <remarks>
/// The socket is bound and listens under a name of its own before it is renamed to the path, so that the path names a
/// listening socket from its first moment. One thread at a time.
/// </remarks>
internal sealed partial class UnixListener : IDisposable
{
    /// <summary>sockaddr_un.sun_path without the byte 0 at its end.</summary>
    private const int PathBytesMax = 107;
    private const int Backlog = 512;
    private const int Rounds = 16;
    private const int AtCurrentFolder = -100;
    private const uint NoReplace = 1;
    private const int OpenPath = 0x20_0000 | 0x1_0000 | 0x8_0000; // O_PATH, O_DIRECTORY, O_CLOEXEC
    private const int ErrorNoEntry = 2;
    private const int ErrorNoFolder = 20;
    private const int ErrorExists = 17;
    private const int ErrorInvalid = 22;

    private readonly string _path;
    private readonly HeldFile _own;
    private bool _isOver;

    private UnixListener(Socket socket, string path, HeldFile own) => (Socket, _path, _own) = (socket, path, own);

    /// <summary>Bound and listening. Its user may close it; the file stays until this object is disposed.</summary>
    public Socket Socket { get; }

    /// <summary>The path, as clients connect to it.</summary>
    public UnixDomainSocketEndPoint EndPoint => new(_path);

    /// <summary>
    /// Listens under a path. Throws <see cref="StartException"/> when the path is no path, when a process listens
    /// there, and when there is a file that is no socket, which is left as it is.
    /// </summary>
    /// <param name="path">Absolute, or below the current folder.</param>
    /// <param name="mode">Rights of the file; null: those that the umask leaves.</param>
    public static UnixListener Bind(string path, UnixFileMode? mode = null)
    {
        var full = FullPath(path);
        var temporary = BesideOf(full);
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        HeldFile? own = null;
        try
        {
            BindIn(socket, temporary, full);
            if (mode is { } rights && OperatingSystem.IsLinux()) File.SetUnixFileMode(temporary, rights);
            socket.Listen(Backlog);
            own = HeldFile.Of(temporary) ?? throw new StartException($"{full}: the socket went at once");
            for (var round = 0; !TryMove(temporary, full, full); round++)
            {
                if (round == Rounds) throw new StartException($"{full}: others make sockets there all the time");
                RemoveDead(full);
            }

            return new UnixListener(socket, full, own);
        }
        catch (Exception exception)
        {
            socket.Dispose();
            own?.Dispose();
            // Where the folder lets nothing be removed, nothing was made as a rule.
            _ = unlink(temporary);
            if (exception is SocketException or UnauthorizedAccessException or IOException and not StartException)
                throw Refused(full, Reason(exception).Replace(temporary, full, StringComparison.Ordinal), exception);
            throw;
        }
    }

    /// <summary>
    /// Closes the socket, and removes its file if that is still the one that it made. Only the first call does
    /// anything.
    /// </summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _isOver, true)) return;
        Socket.Dispose();
        try
        {
            Remove(_path, _own);
        }
        catch (StartException)
        {
            // The folder may no longer be written to. The next daemon finds a socket that nobody listens on.
        }
        finally
        {
            _own.Dispose();
        }
    }

    /// <summary>What the host refuses, with the path and its folder, where the socket is made.</summary>
    private static StartException Refused(string full, string reason, Exception? cause = null) =>
        new($"{full}: no socket can be made in the folder {Path.GetDirectoryName(full)}: {reason}", cause);

    /// <summary>The reason without the name that the socket was bound under.</summary>
    private static string Reason(Exception exception) => exception is SocketException { NativeErrorCode: var error }
        ? Marshal.GetPInvokeErrorMessage(error)
        : exception.Message;

    private static string FullPath(string path)
    {
        if (path.Length == 0 || path.Contains('\0', StringComparison.Ordinal))
            throw new StartException("the path of a socket is empty or holds a byte 0");
        var full = Path.GetFullPath(path);
        if (Path.GetFileName(full).Length == 0) throw new StartException($"{full}: this is a folder");
        if (Encoding.UTF8.GetByteCount(full) > PathBytesMax)
            throw new StartException($"{full}: the path of a socket has at most {PathBytesMax} bytes");
        return full;
    }

    /// <summary>A name that nobody uses, in the folder of a path.</summary>
    private static string BesideOf(string path) =>
        Path.Combine(Path.GetDirectoryName(path)!, $".framepind-{Guid.NewGuid():N}");

    /// <summary>Binds by a descriptor of the folder, since the longer name may not fit into an address.</summary>
    private static void BindIn(Socket socket, string temporary, string full)
    {
        var folder = open(Path.GetDirectoryName(full)!, OpenPath);
        if (folder < 0)
            throw Marshal.GetLastPInvokeError() is ErrorNoEntry or ErrorNoFolder
                ? new StartException($"{full}: there is no folder {Path.GetDirectoryName(full)}")
                : Refused(full, Marshal.GetLastPInvokeErrorMessage());
        try
        {
            socket.Bind(new UnixDomainSocketEndPoint($"/proc/self/fd/{folder}/{Path.GetFileName(temporary)}"));
        }
        finally
        {
            _ = close(folder);
        }
    }

    /// <summary>Renames unless something is there; false when there is.</summary>
    /// <param name="from">Its name.</param>
    /// <param name="to">Its name from now on.</param>
    /// <param name="shown">The path of the user that a refusal names.</param>
    private static bool TryMove(string from, string to, string shown)
    {
        if (renameat2(AtCurrentFolder, from, AtCurrentFolder, to, NoReplace) == 0) return true;
        var error = Marshal.GetLastPInvokeError();
        // A file system that renames over what is there only can still link.
        if (error == ErrorInvalid && link(from, to) == 0)
        {
            _ = unlink(from);
            return true;
        }

        if (error == ErrorInvalid) error = Marshal.GetLastPInvokeError();
        return error is ErrorExists or ErrorNoEntry
            ? false
            : throw Refused(shown, Marshal.GetPInvokeErrorMessage(error));
    }

    /// <summary>Removes a socket that no process listens on. Refuses everything else.</summary>
    private static void RemoveDead(string path)
    {
        using var found = HeldFile.Of(path);
        if (found is null) return;
        if (!found.IsSocket)
            throw new StartException($"{path}: a file is there that is no socket; it is left as it is");
        using var probe = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        probe.Blocking = false;
        try
        {
            probe.Connect(new UnixDomainSocketEndPoint(path));
        }
        catch (SocketException exception) when (exception.SocketErrorCode == SocketError.ConnectionRefused)
        {
            Remove(path, found);
            return;
        }
        catch (SocketException) when (!found.IsUnder(path))
        {
            return;
        }
        catch (SocketException exception) when (exception.SocketErrorCode == SocketError.WouldBlock)
        {
            throw new StartException($"{path}: in use by a process that accepts no connection now");
        }

        var owner = PeerCredentials.Of(probe).Pid;
        throw new StartException(
            owner == 0 ? $"{path}: in use by a process of another container" : $"{path}: in use by process {owner}");
    }

    /// <summary>
    /// Removes one file: a name that has come to mean another file meanwhile is left to it. Throws
    /// <see cref="StartException"/> where the folder or its owner forbids it.
    /// </summary>
    private static void Remove(string path, HeldFile found)
    {
        if (!found.IsUnder(path)) return;
        var aside = BesideOf(path);
        if (!TryMove(path, aside, path)) return;
        if (found.IsUnder(aside)) _ = unlink(aside);
        else _ = TryMove(aside, path, path);
    }

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int open(string path, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int close(int descriptor);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int unlink(string path);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int renameat2(int fromFolder, string from, int toFolder, string to, uint flags);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int link(string from, string to);
}
